// What an assistant does, with version 2 of the TypeScript client as it comes.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [url, token, mode, name] = process.argv.slice(2);
const client = new Client({ name: "test", version: "1" }, { versionNegotiation: { mode } });
const call = (tool, args, options) => client.callTool({ name: tool, arguments: args }, options);
