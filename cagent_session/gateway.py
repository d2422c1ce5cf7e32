"""``Gateway``, and the rule: which requests are bound for the gateway, and what they carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cagent_session.context import current_session_id
from cagent_session.headers import HeaderValue, is_marker, require_marking
from cagent_session.immutable import Immutable
from cagent_session.origins import (
    Origin,
    origin_of,
    parse_gateway_url,
    prefixes_of,
    url_in_environment,
    without_secrets,
)
from cagent_session.reporting import (
    ANOTHER_ORIGIN,
    BOUND,
    LEFT_ORIGIN,
    NO_MARKER,
    NO_SESSION,
    STAMPED,
    Missing,
)
from cagent_session.routes import Route, route_to

if TYPE_CHECKING:
    import uuid


class Gateway(Immutable):
    """A models gateway: its URLs, and what to do about a call in no session. It never changes.

    Every parameter ``gateway=`` of this library takes a URL or a ``Gateway``. Gateways can be
    compared, hashed, copied and pickled.

    :param urls: the gateway's URLs: absolute, http or https, without user, password and fragment.
        They may have a path and a query, but only the origin counts: scheme, host and port. If no
        URL is given, every request with the marker ``X-Cagent-Forward`` is bound for the gateway.
    :param missing: what to do about a request that is bound for the gateway but in no session:
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
    marking: Mapping[str, str]  # see with_marking()
    _prefixes: tuple[str, ...]

    def __init__(self, *urls: str, missing: Missing = "omit") -> None:
        if missing not in ("omit", "warn", "raise"):
            raise ValueError(f'missing must be "omit", "warn" or "raise", got {missing!r}')
        origins = frozenset(map(parse_gateway_url, urls))
        vars(self).update(urls=urls, missing=missing, origins=origins, marking={})
        vars(self)["_prefixes"] = tuple(prefixes_of(origins))

    @classmethod
    def of(cls, gateway: Gateway | str | None, missing: Missing | None = None) -> Gateway:
        """Return a gateway for the parameters *gateway* and *missing* of another function.

        :param missing: ``None`` means *gateway*'s own value, or ``"omit"`` if it has none.
        """
        if not isinstance(gateway, Gateway):
            gateway = cls() if gateway is None else cls(gateway)
        return gateway if missing is None else cls(*gateway.urls, missing=missing)

    @classmethod
    def from_environment(cls, *, missing: Missing = "omit") -> Gateway | None:
        """Return the gateway whose URL is in the environment, or ``None`` if none is.

        The URL is read from ``DOCKER_AGENT_MODELS_GATEWAY``. If that is not set or empty, it is
        read from ``CAGENT_MODELS_GATEWAY``. As in docker-agent, white space around it and one
        ``/`` at its end are removed. If the result is ``None``, don't send the marker: with
        ``gateway=None``, a marked request to any host gets the session ID.

        :param missing: see :class:`Gateway`.
        :raises InvalidGatewayURL: if the variable does not contain a gateway's URL. The message
            names the variable.
        """
        url = url_in_environment()
        return None if url is None else cls(url, missing=missing)

    def route(
        self,
        provider: str,
        *,
        forward: str | None = None,
        model: str | None = None,
        model_name: str | None = None,
        install_id: str | uuid.UUID | None = None,
    ) -> Route:
        """Return what a client needs to call *provider* through this gateway.

        The table of providers is docker-agent's. The path of the gateway's URL is kept as it is,
        with its percent-encodings. If the gateway has several URLs, the first one counts.

        :param provider: the provider's name, such as ``"openai"`` or ``"mistral"``.
        :param forward: the provider's base URL. By default, it is the one in the table. With it,
            any other provider is taken as compatible with OpenAI.
        :param model: the model's ID, such as ``"gpt-4o"``.
        :param model_name: the name that the agent's configuration gives the model.
        :param install_id: the ID of the caller's installation.
        :raises ValueError: if the gateway has no URL, if the query of its URL has the same name
            twice, if *provider* is not in the table and there is no *forward*, and for values that
            :func:`~cagent_session.gateway_headers` refuses.

        >>> route = Gateway("https://api.docker.com/models?tier=pro").route("mistral")
        >>> route.base_url, route.query, route.headers["X-Cagent-Forward"]
        ('https://api.docker.com/models/v1/', {'tier': 'pro'}, 'https://api.mistral.ai/v1')
        """
        identity = {"model": model, "model_name": model_name, "install_id": install_id}
        return route_to(self.urls, provider, forward, identity)

    def with_marking(self, headers: Mapping[str, str] | None) -> Gateway:
        """Return this gateway, with *headers* for the requests to it that have no marker.

        :param headers: ``X-Cagent-*`` headers with the marker, such as those of
            :func:`~cagent_session.gateway_headers`. ``None`` means none.
        :raises ValueError: for other headers, and if the gateway has no URL: every request of the
            program would then be bound for it.
        :raises TypeError: if *headers* is not a mapping.
        """
        if headers is None:
            return self
        require_marking(headers)
        if not self.urls:
            raise ValueError("headers can only be added if the gateway's URL is known: give it")
        marked = type(self)(*self.urls, missing=self.missing)
        vars(marked)["marking"] = dict(headers)
        return marked

    def decide(
        self, url: str, forward: object, callers_id: HeaderValue | None, *, has_left: bool = False
    ) -> tuple[str, HeaderValue | None]:
        """Apply the rule: return a reason, and the session ID that a request to *url* carries.

        The ID is ``None`` if it carries none. The reason is a constant of ``reporting.py``.

        ==================  =======  ==========================================================
        the request         session  what it carries
        ==================  =======  ==========================================================
        bound for gateway   yes      the current session ID. It replaces the caller's ID
        bound for gateway   no       the caller's ID, if the caller set one
        not bound for it    either   no session ID, and if a URL of the gateway is known, or a
                                     redirect left the origin, no ``X-Cagent-*`` header
        ==================  =======  ==========================================================

        A request is bound for the gateway if it has a marker and goes to the origin of one of the
        gateway's URLs. If the gateway has no URLs, the marker is enough. docker-agent has the same
        rule, without the last line of the table. A gateway :meth:`with_marking` counts as a marker.

        :param forward: the value of ``X-Cagent-Forward``, the marker. A blank one does not count.
        :param callers_id: the session ID that the caller set, if any.
        :param has_left: whether a redirect left the origin of the caller's request.
        """
        if has_left:
            return LEFT_ORIGIN, None
        # A URL that starts with one of the prefixes has a clear origin. Parsing it would be slow.
        if self.urls and not url.startswith(self._prefixes) and origin_of(url) not in self.origins:
            return ANOTHER_ORIGIN, None
        if not is_marker(forward) and not self.marking:
            return NO_MARKER, None
        session_id = current_session_id()
        return (NO_SESSION, callers_id or None) if session_id is None else (STAMPED, session_id)

    def removes_all(self, reason: str) -> bool:
        """Return whether every ``X-Cagent-*`` header must be removed, given this *reason*."""
        return reason == LEFT_ORIGIN or (reason not in BOUND and bool(self.urls))

    def added_to(self, reason: str, forward: object) -> Mapping[str, str]:
        """Return the headers to add to a request because it is bound but has no marker."""
        return self.marking if reason in BOUND and not is_marker(forward) else {}

    def __repr__(self) -> str:
        urls = "".join(f"{without_secrets(url)!r}, " for url in self.urls)
        return f"Gateway({urls}missing={self.missing!r})"

    def __eq__(self, other: object) -> bool:
        own = (self.urls, self.missing, self.marking)
        return isinstance(other, Gateway) and own == (other.urls, other.missing, other.marking)

    def __hash__(self) -> int:
        return hash((self.urls, self.missing))
