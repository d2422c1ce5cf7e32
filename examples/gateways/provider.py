"""Stand-ins for the providers behind a gateway: TLS servers with the providers' names."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from cagent_session.testing.answers import default_answer
from cagent_session.testing.serving import start_serving

HOSTS = ("api.openai.com", "api.anthropic.com", "generativelanguage.googleapis.com")


class Provider(HTTPServer):
    """A server that answers as a provider, with an echo. ``log`` has the requests and answers."""

    def __init__(self, ssl_context: ssl.SSLContext) -> None:
        super().__init__("127.0.0.1", 0, ssl_context, threaded=True)

    def start(self) -> None:
        """Start it. It does not log requests to the terminal."""
        start_serving(self)

    @property
    def address(self) -> str:
        """Return host and port."""
        return f"{self.host}:{self.port}"

    def respond_nohandler(self, request: Request, extra_message: str = "") -> Response:  # noqa: ARG002
        """Give the default answer, or an empty list of models."""
        return default_answer(request) or Response(
            '{"object": "list", "data": []}', mimetype="application/json"
        )


@dataclass
class Providers:
    """The providers by host name, and the file with the authority of their certificates."""

    by_host: dict[str, Provider]
    authority: Path

    def __getitem__(self, host: str) -> Provider:
        return self.by_host[host]


@contextmanager
def running_providers(
    folder: Path, names: Iterable[str] = (*HOSTS, "127.0.0.1")
) -> Iterator[Providers]:
    """Run a provider for each of the :data:`HOSTS`.

    :param folder: where the file with the authority is written.
    :param names: the names in the providers' certificate.
    """
    authority, file = trustme.CA(), folder / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    with ExitStack() as stack:
        yield Providers({host: stack.enter_context(Provider(context)) for host in HOSTS}, file)
