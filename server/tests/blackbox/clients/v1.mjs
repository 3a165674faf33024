// What an assistant does, with version 1 of the TypeScript client as it comes.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, token, , name] = process.argv.slice(2);
const client = new Client({ name: "test", version: "1" });
const call = (tool, args, options) => client.callTool({ name: tool, arguments: args }, undefined, options);
