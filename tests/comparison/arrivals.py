"""What reached the wire? Loopback servers that write down the bytes of each request, and a strict reading of them.

What a server answers stands in the request's own query, so that a server has no state but what has arrived: ``to`` and
``status`` redirect, ``fail`` answers 503 so many times, ``digest`` asks for authentication. ``scenario`` tells whose
request it is, and ``owner`` the ID of the session in which the call is made, if in any.
"""

from __future__ import annotations

import re
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import h11
import trustme

LONGEST_LINE = 8190  # of a header, by default: Apache's LimitRequestFieldSize; nginx' buffers end 2 bytes later
DIGEST = 'WWW-Authenticate: Digest realm="gateway", nonce="abc", qop="auth", algorithm=SHA-256\r\n'

_UNFIT = re.compile(
    rb"[^\t\x20-\x7e]"
).search  # RFC 9110, section 5.5: no controls, and new fields keep to ASCII
_HOST = re.compile(rb"(?im)^host: *(\S+)\r$").search
_WHOLE = re.compile(rb"(?s)\AGET .*\r\n\r\n|\r\n\r\n\{\}").search  # each POST has this body
_AUTHORIZATION = re.compile(rb"(?im)^authorization:").search


@dataclass(frozen=True)
class Places:
    """Where the servers are: the gateway, on HTTP and on HTTPS, and hosts that are not the gateway, likewise."""

    gateway: str
    gateway_tls: str
    other: str
    other_tls: str
    ca: str

    @property
    def gateways(self) -> tuple[str, str]:
        return self.gateway, self.gateway_tls

    @property
    def localhost(self) -> str:
        """The gateway's own port under another host's name."""
        return self.gateway.replace("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Arrival:
    """One request: its target, and the bytes of its head."""

    scheme: str
    head: bytes

    @property
    def origin(self) -> str:
        host = _HOST(self.head)
        return f"{self.scheme}://{host[1].decode('latin-1') if host else 'nowhere'}"

    @property
    def query(self) -> dict[str, str]:
        target = self.head.split(b" ", 2)[1].decode("latin-1")
        return {
            name: values[0]
            for name, values in parse_qs(urlsplit(target).query, keep_blank_values=True).items()
        }

    @property
    def headers(self) -> dict[str, str]:
        """The headers as a server that is lenient reads them."""
        lines = (
            line.decode("latin-1").partition(":") for line in self.head.split(b"\r\n")[1:] if line
        )
        return {name.lower(): value.strip(" \t") for name, _, value in lines}

    @property
    def malformed(self) -> str | None:
        """Say what is wrong with these bytes, if something is."""
        lines = self.head.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
        if any(map(_UNFIT, lines)):
            return "bytes that are no visible ASCII"
        if any(len(line) > LONGEST_LINE for line in lines):
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


@dataclass
class Wire:
    """All that has arrived, and where."""

    places: Places
    arrivals: list[Arrival] = field(default_factory=list)

    def of(self, scenario: str) -> list[Arrival]:
        return [arrival for arrival in self.arrivals if arrival.query.get("scenario") == scenario]


def url_at(place: str, scenario: str, owner: object = None, **plan: object) -> str:
    """Return the URL of a call, which says in whose session it is made, and what it is answered."""
    query = {"scenario": scenario, **({} if owner is None else {"owner": owner}), **plan}
    return f"{place}/v1/chat/completions?{urlencode(query)}"


class _Listener(socketserver.ThreadingTCPServer):
    request_queue_size = 128
    tls: ssl.SSLContext | None = None

    def __init__(self, arrivals: list[Arrival], tls: ssl.SSLContext | None) -> None:
        self.arrivals, self.tls = arrivals, tls
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.BaseRequestHandler):
    server: Any  # a listener

    def handle(self) -> None:
        """Read one request, write it down, answer it, and hang up."""
        self.request.settimeout(30)
        with ExitStack() as stack:
            stack.enter_context(suppress(OSError))  # whoever hangs up early
            connection = self.request
            if self.server.tls:
                connection = stack.enter_context(
                    self.server.tls.wrap_socket(connection, server_side=True)
                )
            received = b""
            while not _WHOLE(received):
                data = connection.recv(65536)
                if not data:
                    return
                received += data
            head, end, _ = received.partition(b"\r\n\r\n")
            arrival = Arrival(self.server.scheme, head + end)
            earlier = sum(other.query == arrival.query for other in self.server.arrivals)
            self.server.arrivals.append(arrival)
            connection.sendall(_answer(arrival, earlier))


def _answer(arrival: Arrival, again: int) -> bytes:
    plan, status, headers = arrival.query, 200, ""
    if "to" in plan:
        status, headers = int(plan.get("status", 307)), f"Location: {plan['to']}\r\n"
    elif again < int(plan.get("fail", 0)):
        status = 503
    elif "digest" in plan and not _AUTHORIZATION(arrival.head):
        status, headers = 401, DIGEST
    return f"HTTP/1.1 {status} Answer\r\n{headers}Content-Length: 2\r\nConnection: close\r\n\r\nok".encode()


@contextmanager
def listening() -> Iterator[Wire]:
    """Start a gateway and the other hosts, and stop them at the end."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(tls)
    arrivals: list[Arrival] = []
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(_Listener(arrivals, how)) for how in (None, tls, None, tls)
        ]
        for listener in listeners:
            threading.Thread(
                target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
            ).start()
            stack.callback(listener.shutdown)
        ca = stack.enter_context(authority.cert_pem.tempfile())
        gateway, gateway_tls, other, other_tls = (listener.url for listener in listeners)
        yield Wire(Places(gateway, gateway_tls, other, other_tls, ca), arrivals)
