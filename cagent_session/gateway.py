"""Which requests are bound for the models gateway, and what they carry: the rule."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal

from cagent_session.context import current_session_id
from cagent_session.headers import HeaderValue
from cagent_session.origins import (
    DEFAULT_PORTS,
    InvalidGatewayURL,
    Origin,
    origin_of,
    parse_gateway_url,
    without_secrets,
)

Missing = Literal["omit", "warn", "raise"]

STAMPED = "stamped"
NO_SESSION = "no session"
NO_MARKER = "no marker"
ANOTHER_ORIGIN = "another origin"
LEFT_ORIGIN = "left the origin by a redirect"
BOUND = (STAMPED, NO_SESSION)  # the reasons of requests that are bound for the gateway

_VARIABLES = ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY")
_TRANSPORTS = {"cagent_session", "requests", "httpx", "httpx2", "opentelemetry"}

logger = logging.getLogger("cagent_session")


class MissingSessionId(RuntimeError):  # noqa: N818 - a public name of the design
    """A request bound for the gateway is in no session, and *missing* is ``"raise"``."""


class MissingSessionIdWarning(UserWarning):
    """A request bound for the gateway is in no session, and *missing* is ``"warn"``."""


class Gateway:
    """A models gateway: where requests are bound for, and what they carry. It never changes.

    It can be compared, hashed, copied and pickled. Wherever this library takes ``gateway=``, a URL
    or a ``Gateway`` will do.

    :param urls: the gateway's URLs: absolute, http or https, without user, password and fragment. A
        path and a query are allowed. Only the origin counts: scheme, host and port. Without any
        URL, the marker ``X-Cagent-Forward`` alone decides which requests are bound for the gateway.
    :param missing: what to do about a request that is bound for the gateway and in no session:
        ``"omit"`` sends it without an ID; ``"warn"`` also issues a
        :class:`~cagent_session.MissingSessionIdWarning`; ``"raise"`` raises
        :class:`~cagent_session.MissingSessionId` and sends nothing.
    :raises InvalidGatewayURL: for any other URL.
    :raises ValueError: for any other value of *missing*.

    >>> Gateway("https://api.docker.com/models?tier=pro", missing="raise")
    Gateway('https://api.docker.com/models', missing='raise')
    """

    urls: tuple[str, ...]
    missing: Missing
    origins: frozenset[Origin]
    _prefixes: tuple[str, ...]

    def __init__(self, *urls: str, missing: Missing = "omit") -> None:
        if missing not in ("omit", "warn", "raise"):
            raise ValueError(f'missing must be "omit", "warn" or "raise", got {missing!r}')
        origins = frozenset(map(parse_gateway_url, urls))
        prefixes = [f"{scheme}://{host}:{port}/" for scheme, host, port in origins]
        prefixes += [f"{s}://{host}/" for s, host, port in origins if port == DEFAULT_PORTS[s]]
        vars(self).update(urls=urls, missing=missing, origins=origins, _prefixes=tuple(prefixes))

    @classmethod
    def of(cls, gateway: Gateway | str | None, missing: Missing | None = None) -> Gateway:
        """Return the gateway that the parameters *gateway* and *missing* of a function mean.

        :param missing: ``None`` means the gateway's own, or else ``"omit"``.
        """
        if not isinstance(gateway, Gateway):
            gateway = cls() if gateway is None else cls(gateway)
        return gateway if missing is None else cls(*gateway.urls, missing=missing)

    @classmethod
    def from_environment(cls, *, missing: Missing = "omit") -> Gateway | None:
        """Return the gateway that the environment names, or ``None`` if it names none.

        The URL is that of ``DOCKER_AGENT_MODELS_GATEWAY``, or else of ``CAGENT_MODELS_GATEWAY``,
        without white space around it and without one ``/`` at its end, as docker-agent reads it. An
        empty variable counts as not set. Without a gateway, send no marker: for ``gateway=None`` it
        is the marker alone that decides, whatever host a request goes to.

        :param missing: see :class:`Gateway`.
        :raises InvalidGatewayURL: if the variable contains anything else. The message names it.
        """
        for name in _VARIABLES:
            url = os.environ.get(name, "").strip().removesuffix("/")
            if url:
                try:
                    return cls(url, missing=missing)
                except InvalidGatewayURL as error:
                    raise InvalidGatewayURL(f"environment variable {name}: {error}") from None
        return None

    def decide(
        self, url: str, forward: object, callers: HeaderValue | None, *, left: bool = False
    ) -> tuple[str, HeaderValue | None]:
        """Return why a request to *url* carries which session ID, and the ID or ``None``.

        The reason is one of the words at the top of this module.

        ==================  =======  ==========================================================
        the request         session  what it carries
        ==================  =======  ==========================================================
        bound for gateway   yes      the current session ID. It replaces the caller's value
        bound for gateway   no       the caller's value, if there is one
        not bound for it    either   no session ID, and if a URL of the gateway is known, or the
                                     origin was left by a redirect, no ``X-Cagent-*`` header
        ==================  =======  ==========================================================

        A request is bound for the gateway if it has a marker and, if the gateway has URLs, goes to
        the origin of one of them. docker-agent has the same rule, without the last line.

        :param forward: the value of ``X-Cagent-Forward``, the marker. Blank is like none.
        :param callers: the session ID that the caller set, if any.
        :param left: whether a redirect led off the origin that the request was made for.
        """
        if left:
            return LEFT_ORIGIN, None
        # Up to its first slash a URL can be read in one way only: the usual ones are not parsed.
        is_near = not self.urls or url.startswith(self._prefixes)
        if not is_near and origin_of(url) not in self.origins:
            return ANOTHER_ORIGIN, None
        if not forward or not isinstance(forward, (str, bytes)):
            return NO_MARKER, None
        if forward.isspace() and forward.isascii():
            return NO_MARKER, None
        session_id = current_session_id()
        return (NO_SESSION, callers or None) if session_id is None else (STAMPED, session_id)

    def removes_all(self, reason: str) -> bool:
        """Tell whether a request loses every ``X-Cagent-*`` header for this *reason*."""
        return reason == LEFT_ORIGIN or (reason not in BOUND and bool(self.urls))

    def report(self, request: Any, reason: str, forward: object, session_id: object) -> None:
        """Log *reason*, and do what *missing* says about a request that carries no session ID.

        :param request: of requests, httpx or httpx2: these have a ``method`` and a ``url``.
        :raises MissingSessionId: if the request is bound for the gateway, carries no session ID,
            and *missing* is ``"raise"``.
        """
        if logger.isEnabledFor(logging.DEBUG) and (forward or reason != ANOTHER_ORIGIN):
            logger.debug("%s: %s", reason, _called(request))
        if session_id is None and reason == NO_SESSION and self.missing != "omit":
            message = (
                f"{_called(request)} is bound for the models gateway but in no session: make the "
                "call inside session_scope()"
            )
            if self.missing == "raise":
                raise MissingSessionId(message)
            warnings.warn(message, MissingSessionIdWarning, stacklevel=_callers_stacklevel())

    def __repr__(self) -> str:
        urls = "".join(f"{without_secrets(url)!r}, " for url in self.urls)
        return f"Gateway({urls}missing={self.missing!r})"

    def __eq__(self, other: object) -> bool:
        same = (self.urls, self.missing)
        return isinstance(other, Gateway) and same == (other.urls, other.missing)

    def __hash__(self) -> int:
        return hash((self.urls, self.missing))

    if not TYPE_CHECKING:  # a type checker would accept any attribute

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(f"a Gateway never changes: make another one to set {name}")

        def __delattr__(self, name: str) -> None:
            raise AttributeError(f"a Gateway never changes: {name} can't be deleted")


def _called(request: Any) -> str:
    return f"{request.method} {without_secrets(str(request.url))}"


def _callers_stacklevel() -> int:
    """Return the ``stacklevel`` of a warning that points at the code that made the call."""
    # As the warnings module does it. Its own parameter skip_file_prefixes is new in Python 3.12.
    level, frame = 1, sys._getframe(1)  # noqa: SLF001
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _TRANSPORTS:
        level, frame = level + 1, frame.f_back
    return level
