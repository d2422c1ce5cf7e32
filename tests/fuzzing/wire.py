"""Helpers: a server that keeps the bytes it reads, and a replacement for name look-ups."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import pytest
import requests
from requests.adapters import HTTPAdapter

Address = tuple[str, int]
Target = tuple[str, str, Any]
Log = list[tuple[str, bytes]]

_LENGTH = re.compile(rb"(?im)^content-length: *(\d+)\r?$").search


class Wire(socketserver.ThreadingTCPServer):
    """A loopback HTTP/1.1 server that keeps the bytes of each request.

    Each request gets the next of the *answers*. When there are none left, it gets a 200.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, name: str = "gateway", log: Log | None = None, answers: list[bytes] | None = None
    ) -> None:
        self.name = name
        self.log: Log = [] if log is None else log
        self.answers = [] if answers is None else answers
        super().__init__(("127.0.0.1", 0), _Requests)

    @property
    def address(self) -> Address:
        return "127.0.0.1", self.socket.getsockname()[1]

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.address)

    @contextmanager
    def listening(self) -> Iterator[Wire]:
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        with self:
            yield self
            self.shutdown()


class _Requests(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    server: Any  # a Wire

    def handle(self) -> None:
        while head := b"".join(self.lines()):
            length = _LENGTH(head)
            self.server.log.append(
                (self.server.name, head + self.rfile.read(int(length[1]) if length else 0))
            )
            if self.server.answers:  # such an answer need not be valid HTTP
                self.wfile.write(self.server.answers.pop(0))
                return
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def lines(self) -> Iterator[bytes]:
        try:
            while line := self.rfile.readline():
                yield line
                if line == b"\r\n":
                    return
        except ConnectionResetError:  # the client closed the connection
            return


class Names:
    """Records the names and ports that the transports look up just before they connect."""

    def __init__(self) -> None:
        self.asked: list[Address] = []
        self.leads_to: Callable[[str, int], Address | None] = lambda _host, _port: None

    @contextmanager
    def instead_of_the_resolver(self) -> Iterator[Names]:
        resolve = socket.getaddrinfo

        def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            name = (
                host.decode("ascii")
                if isinstance(host, bytes)
                else host.encode("idna").decode("ascii")
            )
            self.asked.append((name.lower().removesuffix("."), int(port)))
            address = self.leads_to(*self.asked[-1])
            if address is None:
                raise socket.gaierror(socket.EAI_NONAME, "nothing leaves the machine")
            return resolve(*address, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", look_up)
            yield self


class RecordingAdapter(HTTPAdapter):
    """The adapter of requests. It also records where it connects, and the headers it sends."""

    def __init__(self, *, tls: bool = True) -> None:
        super().__init__()
        self.tls = tls
        self.sent: list[tuple[Target, dict[Any, Any]]] = []

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> Any:
        pool: Any = super().get_connection_with_tls_context(request, *args, **kwargs)
        self.sent.append(
            ((pool.scheme, pool.host.removesuffix("."), pool.port), dict(request.headers))
        )
        if pool.scheme == "https" and not self.tls:
            raise requests.ConnectionError("no server here speaks TLS")
        return pool


def h11_accepts(raw: bytes) -> bool:
    """Tell whether h11 reads *raw* as exactly one request."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(raw)
    try:
        events = [type(server.next_event()) for _ in range(3)]
        while events[-1] is h11.Data:
            events.append(type(server.next_event()))
    except h11.RemoteProtocolError:
        return False
    return h11.EndOfMessage in events and server.trailing_data == (b"", False)


def header_lines(raw: bytes) -> list[bytes]:
    return raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
