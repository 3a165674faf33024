"""A web server from the standard library alone: the smallest app that brings its own Dockerfile."""

import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        pages = {
            "/": f"Hello from {os.environ.get('GREETING', 'a Dockerfile')}\n",
            "/healthz": "ok\n",
        }
        page = pages.get(self.path.split("?")[0])
        body = (page or "not found\n").encode()
        self.send_response(200 if page else 404)
        self.send_header("content-type", "text/plain; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    port = int(os.environ.get("PORT", "8000"))
    server = ThreadingHTTPServer(("0.0.0.0", port), Handler)
    # shutdown() waits for the serving loop, so it must not run inside a signal handler of that same thread.
    stop = lambda *_: threading.Thread(target=server.shutdown).start()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"listening on port {port}")
    server.serve_forever()
    print("stopped")


main()
