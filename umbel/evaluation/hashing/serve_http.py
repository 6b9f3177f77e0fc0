"""The local server: a few fixed addresses, strict headers, and nothing that a client says ever names a file.

Python's own http.server is enough: a page, two static texts, two questions and pictures by number. An upload is the
body of its request, so that no form has to be taken apart.
"""

from __future__ import annotations

import json
import re
import socket
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote_plus

from umbel.evaluation.hashing.serve_answers import Answers
from umbel.evaluation.hashing.serve_hosts import Hosts
from umbel.evaluation.hashing.serve_upload import MOST_BYTES, RefusedError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
AT_ONCE, PATIENCE, UPLOAD_SECONDS = 2, 30.0, 120.0
"""Uploads that are read, decoded and embedded at a time, and seconds that others wait for them."""
DRAINED = 4 * MOST_BYTES
"""Bytes of a refused upload that are read and thrown away: a browser hears no answer before it has sent all."""
HTML, CSS, JS, JSON, SVG = "text/html", "text/css", "text/javascript", "application/json", "image/svg+xml"
Texts = dict[str, tuple[str, str]]
"""What stands at fixed addresses: media type and text."""


class Server(ThreadingHTTPServer):
    """Answers and texts on an address of this machine."""

    daemon_threads = True

    def __init__(self, host: str, port: int, answers: Answers, texts: Texts) -> None:
        """Bind.

        Raises:
            OSError: the address cannot be had.
        """
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.answers, self.texts = answers, texts
        self.uploads = threading.BoundedSemaphore(AT_ONCE)
        self.hosts = Hosts(host)
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """Bind without the reverse look-up of a name that http.server would make."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; anything else is ours."""
        if not isinstance(sys.exception(), OSError):
            traceback.print_exc()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "umbel", ""
    timeout = 30.0

    def do_GET(self) -> None:
        """A text, a picture, or the answer to a key."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """The answer to a photograph."""
        self._answer(self._post)

    def _get(self) -> tuple[str, bytes]:
        address, _, query = self.path.partition("?")
        if address in self.server.texts:
            kind, text = self.server.texts[address]
            return f"{kind}; charset=utf-8", text.encode()
        if found := re.fullmatch(r"/photograph/([0-9]{1,12})", address):
            return "image/jpeg", self.server.answers.thumbnail(int(found[1]))
        if address == "/search":
            what, _, value = query.partition("=")
            if what == "key":
                return _json(self.server.answers.by_key(unquote_plus(value)))
            if what == "text":
                return _json(self.server.answers.by_text(unquote_plus(value)))
            if what == "row" and re.fullmatch(r"[0-9]{1,12}", value):
                return _json(self.server.answers.by_row(int(value)))
            raise RefusedError(400, "Ask for words, a key or a row.")
        raise RefusedError(404, "There is nothing at this address.")

    def _post(self) -> tuple[str, bytes]:
        if self.path != "/search":
            raise RefusedError(404, "There is nothing at this address.")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,18}", length) or "Transfer-Encoding" in self.headers:
            raise RefusedError(411, "An upload must tell its length.")
        if int(length) > MOST_BYTES:
            self._drain(int(length))
            raise RefusedError(413, f"This file is larger than {MOST_BYTES >> 20} MB: make it smaller.")
        if not self.server.uploads.acquire(timeout=PATIENCE):
            raise RefusedError(503, "Other photographs are being searched for: try again in a moment.")
        try:
            return _json(self.server.answers.by_photograph(self._body(int(length))))
        finally:
            self.server.uploads.release()

    def _body(self, length: int) -> bytes:
        content, deadline = bytearray(), time.monotonic() + UPLOAD_SECONDS
        while len(content) < length:
            piece = self.rfile.read1(min(length - len(content), 1 << 16))
            if not piece or time.monotonic() > deadline:
                raise RefusedError(408, "The upload was cut off, or took too long.")
            content += piece
        return bytes(content)

    def _drain(self, length: int) -> None:
        left, deadline = min(length, DRAINED), time.monotonic() + UPLOAD_SECONDS
        while left > 0 and time.monotonic() < deadline and (piece := self.rfile.read1(min(left, 1 << 16))):
            left -= len(piece)

    def _answer(self, make: Callable[[], tuple[str, bytes]]) -> None:
        try:
            self._check_origin()
            status, (kind, content) = 200, make()
        except RefusedError as error:
            status, (kind, content) = error.status, _json({"error": error.sentence})
        except OSError:
            self.close_connection = True  # the client went away, or stopped sending
            return
        except Exception:
            traceback.print_exc()
            status, (kind, content) = 500, _json({"error": "The server failed; its terminal says why."})
        self._send(status, kind, content)

    def _check_origin(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not self.server.hosts.knows(hosts[0]):
            raise RefusedError(421, "This server does not answer under that name.")
        origin = self.headers.get("Origin")
        if origin is not None and origin.partition("://")[2].lower() != hosts[0].lower():
            raise RefusedError(403, "Other pages may not ask here.")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise RefusedError(403, "Other pages may not ask here.")

    def _send(self, status: int, kind: str, content: bytes) -> None:
        if status != 200:
            self.close_connection = True  # its body may not have been read
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        """Every answer carries the strict headers, errors of http.server's own too."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """In place of http.server's page, which repeats what the client sent."""
        self._send(code, *_json({"error": "This server cannot answer such a request."}))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what people search for is theirs."""


def _json(told: dict[str, Any]) -> tuple[str, bytes]:
    return f"{JSON}; charset=utf-8", json.dumps(told, ensure_ascii=False).encode()
