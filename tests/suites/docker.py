"""Stands in for a container engine: every container is the broker that already runs here.

Creating, starting and looking at a container work; the ports are the broker's own. Killing one
is answered and not done, as the next test wants the broker too; all else is refused.
"""

import http.server
import json


class Engine(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        if self.path.startswith("/images/create"):
            self.answer(200, {"status": "here"})
        elif self.path.startswith("/containers/create"):
            length = int(self.headers.get("content-length") or 0)
            self.rfile.read(length)
            self.answer(201, {"Id": "broker"})
        elif self.path in ("/containers/broker/start", "/containers/broker/kill"):
            self.answer(204, None)
        else:
            self.answer(501, {"message": "this broker is not a container"})

    def do_GET(self):
        if self.path == "/containers/broker/json":
            ports = {f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]
                     for port in (5672, 5671, 15672, 15671)}
            self.answer(200, {"Id": "broker", "NetworkSettings": {"Ports": ports}})
        else:
            self.answer(404, {"message": "nothing here"})

    def do_DELETE(self):
        self.answer(204, None)

    def answer(self, status, body):
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", 2375), Engine).serve_forever()
