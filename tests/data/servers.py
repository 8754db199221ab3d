"""A server on this machine with the faults of real ones."""

import hashlib
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from proteinlm.data.fetch.http import Effort

QUICK = Effort(attempts=3, wait=0.01, timeout=0.3)


class Server(ThreadingHTTPServer):
    """Serves `content`; the faults happen once each, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.faults, self.ranges = b"", [], []
        self.has_version = self.continues = self.says_length = True

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format, *args) -> None: ...

    def do_GET(self) -> None:
        server = self.server
        fault = server.faults.pop(0) if server.faults else ""
        server.ranges.append(self.headers.get("Range"))
        if fault == "redirect":
            return self.head(302, Location=f"http://127.0.0.1:{server.server_port}/elsewhere/stability.tar.gz")
        if fault.isdigit():
            self.head(int(fault), **{"Content-Length": "9"})
            return self.wfile.write(b"<Error/>\n")
        version = f'"{hashlib.md5(server.content).hexdigest()}"'
        start, body = 0, server.content
        wanted = self.headers.get("Range")
        if wanted and server.continues and self.headers.get("If-Range") == version:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.head(416)
        headers = {"ETag": version} if server.has_version else {}
        if server.says_length:
            headers["Content-Length"] = str(len(body) - start)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.head(206 if start else 200, **headers)
        sent = body[start : start + len(body) // 3] if fault in ("cut", "stall") else body[start:]
        self.wfile.write(sent)
        if fault == "stall":
            time.sleep(3 * QUICK.timeout)
        return None

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
