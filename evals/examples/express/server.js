import express from "express";

const app = express();
app.disable("x-powered-by");

app.get("/", (req, res) => {
  res.send(`Hello from ${process.env.GREETING ?? "Express"}\n`);
});

app.get("/healthz", (req, res) => {
  res.json({ ok: true });
});

// Names only: values of variables can be secrets.
app.get("/env-names", (req, res) => {
  res.json(Object.keys(process.env).sort());
});

// Server-sent events: one a second, until the client leaves or the server stops.
const streams = new Set();
app.get("/ticks", (req, res) => {
  res.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  let count = 0;
  const send = () => res.write(`id: ${++count}\nevent: tick\ndata: ${new Date().toISOString()}\n\n`);
  const timer = setInterval(send, 1000);
  send();
  streams.add(res);
  res.on("close", () => {
    clearInterval(timer);
    streams.delete(res);
  });
});

const port = Number(process.env.PORT ?? 3000);
const server = app.listen(port, "0.0.0.0", (error) => {
  if (error) {
    console.error(`cannot listen on port ${port}: ${error.message}`);
    process.exit(1);
  }
  console.log(`listening on port ${port}`);
});

// Finish what was begun, then leave: requests in flight get their answer, event streams end.
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => {
    console.log(`${signal}: stopping`);
    server.close(() => process.exit(0));
    for (const stream of streams) stream.end();
    server.closeIdleConnections();
  });
}
