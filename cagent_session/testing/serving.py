"""The web server below the gateway for tests."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pytest_httpserver import HTTPServer, HTTPServerError
from werkzeug import Request
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

HEADERS = "cagent_session.headers"  # in the WSGI environment: a list of names and values

_POLL_SECONDS = 0.005  # how long stop() waits for the server's loop; the default is half a second
_STOP_SECONDS = 5  # how long stop() waits for calls in flight

OnRefusal = Callable[["Handler", int], None]


def start_serving(server: HTTPServer, on_refusal: OnRefusal | None = None) -> None:
    """Start *server* with the classes of this module.

    :param on_refusal: is called with the handler and the status if a request's head can't be read.
    :raises HTTPServerError: if *server* is running.
    """
    if server.is_running():
        raise HTTPServerError("Server is already running")
    app: Any = Request.application(server.application)
    serving = Server(server.host, server.port, app, Handler, ssl_context=server.ssl_context)
    serving.on_refusal = on_refusal
    server.server, server.port = serving, serving.port
    server.server_thread = threading.Thread(target=serving.serve_forever, daemon=True)
    server.server_thread.start()


class Server(ThreadedWSGIServer):
    """A server that waits for the calls in flight before it ends.

    No connection keeps others waiting, also if it is silent: TLS begins in the handler's thread.
    """

    on_refusal: OnRefusal | None = None

    def __init__(self, *args: Any, **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        self._changed = threading.Condition()
        self._begun: dict[Any, bool] = {}  # whether the request of an open connection has begun

    def serve_forever(self, poll_interval: float = _POLL_SECONDS) -> None:
        """Serve until stopped. Then answer the calls that have arrived, but only for a while."""
        # Not werkzeug's method: it closes the socket, and with it the connections not yet accepted.
        socketserver.BaseServer.serve_forever(self, poll_interval)
        end = time.monotonic() + _STOP_SECONDS
        self.timeout = 0
        self._is_waiting = True
        while self._is_waiting and time.monotonic() < end:
            self.handle_request()
        self.server_close()
        with self._changed:
            for connection, begun in self._begun.items():
                if not begun:  # what has arrived is read, but no more
                    with suppress(OSError):
                        # Not SSLSocket's method: it would also end TLS.
                        socket.socket.shutdown(connection, socket.SHUT_RD)
            self._changed.wait_for(lambda: not self._begun, end - time.monotonic())

    def get_request(self) -> Any:
        """Accept a connection.

        :raises OSError: if the client has already gone.
        """
        if not self.ssl_context:
            return super().get_request()
        # Not SSLSocket's method: before Python 3.13 it leaves such a client's connection open.
        connection, address = socket.socket.accept(self.socket)
        try:
            connection.getpeername()
        except OSError:
            connection.close()
            raise
        tls: Any = self.ssl_context
        # The first read does the handshake.
        wrapped = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def handle_timeout(self) -> None:
        """Note that no connection waits to be accepted."""
        self._is_waiting = False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on the new connection *request*, in a thread."""
        with self._changed:
            self._begun[request] = False
        super().process_request(request, client_address)

    def begin(self, request: Any) -> None:
        """Note that a request has arrived on a connection."""
        with self._changed:
            self._begun[request] = True

    def shutdown_request(self, request: Any) -> None:
        """Close the connection *request*."""
        super().shutdown_request(request)
        with self._changed:
            self._begun.pop(request, None)
            self._changed.notify_all()


class Handler(WSGIRequestHandler):
    """A request handler that writes no log, and keeps all headers as they were sent.

    The calls are recorded. A log would also show the queries, which may hold keys, in the output
    of each failing test.
    """

    server: Any  # a Server
    timeout = 30  # seconds, for TLS and the head of the request

    def parse_request(self) -> bool:
        """Read the head of the request. Its first line has arrived."""
        self.server.begin(self.connection)
        return super().parse_request()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request whose head can't be read."""
        if self.server.on_refusal:
            self.server.on_refusal(self, code)
        super().send_error(code, message, explain)

    def run_wsgi(self) -> None:
        """Answer the request. Its body and the answer may take any time."""
        self.connection.settimeout(None)
        super().run_wsgi()

    def make_environ(self) -> Any:
        """Return the WSGI environment, with the headers. WSGI itself joins those sent twice."""
        environ: dict[str, Any] = super().make_environ()
        environ[HEADERS] = [(name, value.strip(" \t")) for name, value in self.headers.items()]
        return environ

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        """Write nothing."""
