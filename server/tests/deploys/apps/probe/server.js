// An app that tells about itself and does what a test asks of it by path.
const http = require("node:http");
const fs = require("node:fs");
const os = require("node:os");

const version = fs.existsSync("version.txt") ? fs.readFileSync("version.txt", "utf8").trim() : "0";
let ready = true;

const server = http.createServer((req, res) => {
  const url = new URL(req.url, "http://app");
  const send = (status, body) => {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    res.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
    res.end(text);
  };
  const parts = [];
  req.on("data", (part) => parts.push(part));
  req.on("end", () => {
    const body = Buffer.concat(parts).toString();
    switch (url.pathname) {
      case "/":
        return send(200, { version, host: os.hostname() });
      case "/env":
        return send(200, process.env);
      case "/echo":
        return send(200, { version, method: req.method, body });
      case "/slow":
        return setTimeout(() => send(200, { version }), Number(url.searchParams.get("ms") ?? 500));
      case "/say":
        (url.searchParams.get("to") === "stderr" ? console.error : console.log)(url.searchParams.get("text"));
        return send(200, "said");
      case "/status":
        return send(Number(url.searchParams.get("code")), "as asked");
      case "/die":
        res.end("dying");
        return setTimeout(() => process.exit(7), 50);
      default:
        return send(404, "nothing here");
    }
  });
});

const port = Number(process.env.PORT ?? 8080);
server.listen(port, "0.0.0.0", () => console.log(`listening on ${port}`));
process.once("SIGTERM", () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
