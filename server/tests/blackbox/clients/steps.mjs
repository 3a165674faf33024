
const headers = { Authorization: `Bearer ${token}` };
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));
const progress = [];
const tools = (await client.listTools()).tools;
const read = await call("app_list", {});
const wrote = await call("tool_write", { name: "project_create", arguments: { name } });
const deploy = { app: name, create_app: true, files: { "index.html": "hello" }, wait_s: 40 };
const deployed = await call("deployment_create", deploy, { onprogress: (p) => progress.push(p.message) });
const wrong = await call("app_get", { app: "nowhere" });
const resource = await client.readResource({ uri: "berth://docs/overview" });
const prompt = await client.getPrompt({ name: "why_is_it_down", arguments: { app: name } });
await client.close();
console.log(JSON.stringify({
  tools: tools.map((tool) => tool.name),
  read: read.structuredContent,
  wrote: wrote.structuredContent,
  deployed: deployed.structuredContent,
  progress,
  wrong: wrong.isError,
  resource: resource.contents[0].text,
  prompt: prompt.messages[0].content.text,
}));
