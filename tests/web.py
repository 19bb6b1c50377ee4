"""A small web server for tests: files of a folder, over HTTP on the loopback interface, and every
way in which one fails."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Fault = str | int | None
"""``cut``, ``reset``, ``silent``, ``garbage``, a status of HTTP, or None for an answer as it should
be."""


class Web(ThreadingHTTPServer):
    """Answers requests for the files below ``root``; lists nothing.

    ``fault`` says what becomes of a request by its path, and is asked anew for each; ``asked``
    holds every path that was.
    """

    daemon_threads = True

    def __init__(self, root: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.root = root
        self.fault: Callable[[str], Fault] = lambda path: None
        self.asked: list[str] = []
        self.let_go = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        del request, client_address  # clients that have hung up

    def stop(self) -> None:
        """Close, as a machine that is switched off."""
        self.fault = lambda path: "reset"  # on connections that are kept open
        self.let_go.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.server.asked.append(path)
        fault = self.server.fault(path)
        file = self.server.root / path
        if isinstance(fault, int):
            self._answer(fault, b"an error, in words")
        elif fault == "silent":
            self.server.let_go.wait()
            self.close_connection = True
        elif fault == "reset":
            self._reset()
        elif not file.is_file():
            self._answer(404, b"not found")
        else:
            self._send(file.read_bytes(), fault)

    def _send(self, content: bytes, fault: Fault) -> None:
        status, extra = 200, {}
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else len(content) - int(last)
            stop = int(last) + 1 if first and last else len(content)
            extra = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
            content, status = content[start:stop], 206
        if fault == "garbage":
            content = b"<html>please log in</html>"
        self._answer(status, content, extra, cut=fault == "cut")

    def _answer(
        self, status: int, content: bytes, extra: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(content)),
            "Accept-Ranges": "bytes",
            **(extra or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def _reset(self) -> None:
        """Hang up so that the other side is told of a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        with suppress(OSError):
            self.wfile.close()


@contextmanager
def serving(root: Path, port: int = 0) -> Iterator[Web]:
    """A server that runs meanwhile."""
    web = Web(root, port)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.stop()
        thread.join()
