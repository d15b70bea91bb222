"""A small web server for tests of fetching: ranges, validators, cuts, errors, web pages; counts what it is asked."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """What the server does.

    Attributes:
        files: Path -> content.
        cuts: Bytes after which the next connections are cut, one entry per request.
        errors: Status codes of the next requests, before anything is served.
        ranges: Whether `Range` is honoured.
        tag: Entity tag; none if empty.
        content_type: Of every answer.
        requests: (path, `Range`, `If-Range`) of every request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    ranges: bool = True
    tag: str = '"one"'
    content_type: str = "application/octet-stream"
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Served]:
    """Serve until the block ends."""
    served = Served(dict(files))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
            served.requests.append((self.path, wanted, condition))
            content = served.files.get(self.path)
            if served.errors or content is None:
                self.answer(served.errors.pop(0) if served.errors else 404, b"<html>no</html>", "text/html")
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and served.ranges else 0
            if condition is not None and condition != served.tag:
                start = 0
            if start >= len(content) > 0:
                self.answer(416, b"", "text/plain", {"Content-Range": f"bytes */{len(content)}"})
                return
            extra = {"ETag": served.tag} if served.tag else {}
            if start:
                extra["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.answer(206 if start else 200, content[start:], served.content_type, extra)

        def answer(self, status: int, content: bytes, kind: str, extra: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(extra or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            cut = served.cuts.pop(0) if served.cuts and status in {200, 206} else len(content)
            self.wfile.write(content[:cut])

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Clients that leave are part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
