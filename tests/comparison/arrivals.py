"""Servers on loopback that keep the bytes of each request, and a strict check of these bytes.

A request's query says how the server answers:

- ``to``: with a redirect to this URL, and with the status in ``status``
- ``fail``: with 503, this number of times
- ``digest``: with a demand for digest authentication

The query also names the ``scenario`` that makes the call, and the ``owner``: the ID of the session
to which the call belongs. A call in no session has no owner.
"""

from __future__ import annotations

import re
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import h11
import trustme

LONGEST_LINE = 8190  # of a header, in bytes: Apache's default, and nearly nginx's
DIGEST = 'WWW-Authenticate: Digest realm="gateway", nonce="abc", qop="auth", algorithm=SHA-256\r\n'


class Places(NamedTuple):
    """The URLs of the servers: the gateway and another host, each with HTTP and with HTTPS."""

    gateway: str
    gateway_tls: str
    other: str
    other_tls: str
    ca: str  # the file with the certificate of the authority

    @property
    def gateways(self) -> tuple[str, ...]:
        return self.gateway, self.gateway_tls

    @property
    def localhost(self) -> str:
        """The gateway's server, under the name of another host."""
        return self.gateway.replace("127.0.0.1", "localhost")


class Arrival:
    """One request, as a lenient server reads it."""

    def __init__(self, scheme: str, head: bytes) -> None:
        self.head = head
        request, *self.lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.target = request.split(" ")[1]
        self.query = dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))
        headers = (line.partition(":") for line in self.lines)
        self.headers = {name.lower(): value.strip(" \t") for name, _, value in headers}
        self.origin = f"{scheme}://{self.headers['host']}"

    def problem(self) -> str | None:
        """Return what a strict server would reject, or ``None``."""
        # RFC 9110, section 5.5: control characters are invalid, and new headers should be ASCII.
        if any(re.search(r"[^\t\x20-\x7e]", line) for line in self.lines):
            return "bytes that are not visible ASCII"
        if any(len(line) > LONGEST_LINE for line in self.lines):
            return "a header that is too long for nginx and Apache"
        if "x-injected" in self.headers:
            return "an injected header"
        try:
            server = h11.Connection(h11.SERVER)
            server.receive_data(self.head)
            server.next_event()
        except h11.RemoteProtocolError as error:
            return str(error)
        return None


class _Server(socketserver.ThreadingTCPServer):
    request_queue_size = 128

    def __init__(self, arrivals: list[Arrival], tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.arrivals = arrivals
        self.scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)


class _Handler(socketserver.StreamRequestHandler):
    server: Any  # a _Server
    timeout = 30

    def handle(self) -> None:
        """Read a request, keep it and answer it. A client may hang up before it sends one."""
        lines = [self.rfile.readline()]
        while lines[-1] not in (b"\r\n", b""):
            lines.append(self.rfile.readline())
        if lines[-1]:
            arrival = Arrival(self.server.scheme, b"".join(lines))
            self.rfile.read(int(arrival.headers.get("content-length", 0)))
            earlier = sum(other.target == arrival.target for other in self.server.arrivals)
            self.server.arrivals.append(arrival)
            self.wfile.write(_answer(arrival, earlier))


def _answer(arrival: Arrival, earlier: int) -> bytes:
    query, status, header = arrival.query, 200, ""
    if "to" in query:
        status, header = int(query.get("status", 307)), f"Location: {query['to']}\r\n"
    elif earlier < int(query.get("fail", 0)):
        status = 503
    elif "digest" in query and "authorization" not in arrival.headers:
        status, header = 401, DIGEST
    length = "Content-Length: 2\r\nConnection: close\r\n"
    return f"HTTP/1.1 {status} Answer\r\n{header}{length}\r\nok".encode()


@contextmanager
def listening() -> Iterator[tuple[Places, list[Arrival]]]:
    """Run the servers. Yield their URLs, and a list that grows with each request."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(tls)
    arrivals: list[Arrival] = []
    with ExitStack() as stack:
        urls = []
        for context in (None, tls, None, tls):
            server = stack.enter_context(_Server(arrivals, context))
            threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
            stack.callback(server.shutdown)
            urls.append(f"{server.scheme}://127.0.0.1:{server.server_address[1]}")
        ca = stack.enter_context(authority.cert_pem.tempfile())
        yield Places._make([*urls, ca]), arrivals
