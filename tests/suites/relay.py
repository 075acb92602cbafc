"""Stands in for the part of a management API that lists and closes connections.

Clients connect to the usual port here, and every byte goes on to the server at 127.0.0.2 and
back. `GET /api/connections/` tells who is connected, `DELETE /api/connections/NAME` closes a
connection as an operator would: the client is sent `connection.close` 320, the server sees the
socket end. Nothing else is answered or changed.
"""

import asyncio
import base64
import contextlib
import http
import json
import re
import struct
import urllib.parse

SERVER = "127.0.0.2"
HERE = ("127.0.0.1", "::1")
AMQP, HTTP = 5672, 15672
LOGIN = "Basic " + base64.b64encode(b"guest:guest").decode()
FORCED = b"CONNECTION_FORCED - Closed via management plugin"
START_OK, OPEN_OK, CLOSE_OK = (10, 11), (10, 41), (10, 51)
CLOSE_SECONDS = 5

connections = {}


class Connection:
    """A client's connection and the one that stands for it at the server."""

    def __init__(self, client, server):
        self.client_reader, self.client = client
        self.server_reader, self.server = server
        (host, port), (our_host, our_port) = (
            self.client.get_extra_info(end)[:2] for end in ("peername", "sockname"))
        self.name = f"{host}:{port} -> {our_host}:{our_port}"
        self.connection_name = None
        self.forced = False

    async def carry(self):
        """Both ways, until one side ends."""
        self.server.write(await self.client_reader.readexactly(8))
        ways = [asyncio.create_task(self.to_server()), asyncio.create_task(self.to_client())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)

    async def to_server(self):
        async for frame in frames(self.client_reader):
            if self.forced:
                # What came too late is dropped, as a server does that has sent its close.
                if method(frame) == CLOSE_OK:
                    return
                continue
            if method(frame) == START_OK:
                named = re.search(rb"\x0fconnection_nameS(....)", frame, re.DOTALL)
                if named:
                    length = struct.unpack("!I", named[1])[0]
                    self.connection_name = frame[named.end():named.end() + length].decode()
            self.server.write(frame)
            await self.server.drain()

    async def to_client(self):
        async for frame in frames(self.server_reader):
            if method(frame) == OPEN_OK:
                connections[self.name] = self
            self.client.write(frame)
            await self.client.drain()
        if self.forced:
            await asyncio.sleep(CLOSE_SECONDS)

    def force(self):
        """Between two frames, as all writes are whole frames."""
        self.forced = True
        payload = struct.pack("!HHHB", 10, 50, 320, len(FORCED)) + FORCED + struct.pack("!HH", 0, 0)
        self.client.write(struct.pack("!BHI", 1, 0, len(payload)) + payload + b"\xce")
        self.server.close()


async def frames(reader):
    while True:
        try:
            header = await reader.readexactly(7)
            yield header + await reader.readexactly(struct.unpack("!I", header[3:])[0] + 1)
        except (asyncio.IncompleteReadError, ConnectionError):
            return


def method(frame):
    return struct.unpack("!HH", frame[7:11]) if frame[0] == 1 else None


async def serve_amqp(reader, writer):
    server = None
    try:
        server = await asyncio.open_connection(SERVER, AMQP)
        connection = Connection((reader, writer), server)
        await connection.carry()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        if server:
            connections.pop(connection.name, None)
            server[1].close()
        writer.close()


async def serve_http(reader, writer):
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        verb, path, _ = head.split(" ", 2)
        login = re.search(r"(?im)^authorization: *(.*?)\r$", head)
        status, body = answer(verb, path) if login and login[1] == LOGIN else (401, b"")
        reason = http.HTTPStatus(status).phrase
        writer.write(
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        await writer.drain()
    writer.close()


def answer(verb, path):
    parts = [urllib.parse.unquote(part) for part in path.split("/")]
    match (verb, parts):
        case ("GET", ["", "api", "connections"] | ["", "api", "connections", ""]):
            told = [{"name": one.name, "client_properties": {"connection_name": one.connection_name}}
                    for one in connections.values()]
            return 200, json.dumps(told).encode()
        case ("DELETE", ["", "api", "connections", name]) if name in connections:
            connections.pop(name).force()
            return 204, b""
    return 404, b""


async def main():
    servers = [await asyncio.start_server(serve, HERE, port)
               for serve, port in ((serve_amqp, AMQP), (serve_http, HTTP))]
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
