"""``Gateway``, and the rule: which requests are bound for the gateway, and what they carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cagent_session.context import current_attribution
from cagent_session.decision import Decision
from cagent_session.header_names import HeaderNames
from cagent_session.headers import (
    ABSENT,
    FORWARD_HEADER,
    SESSION_ID_HEADER,
    ByName,
    by_lower_name,
    is_marker,
    require_marking,
)
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
    LEFT_ORIGIN,
    NO_MARKER,
    NO_SESSION,
    STAMPED,
    Missing,
    require_known,
)
from cagent_session.routes import Route, route_to

if TYPE_CHECKING:
    import uuid


class Gateway(Immutable):
    """A models gateway: its URLs, and the headers that it reads. It never changes.

    Every parameter ``gateway=`` of this library takes a URL or a ``Gateway``. Gateways can be
    compared, hashed, copied and pickled.

    :param urls: the gateway's URLs: absolute, http or https, without user, password and fragment.
        They may have a path and a query, but only the origin counts: scheme, host and port. If no
        URL is given, every request with the marker is bound for the gateway.
    :param missing: what to do about a request that is bound for the gateway but in no session:
        ``"omit"`` sends it without an ID; ``"warn"`` also issues a
        :class:`~cagent_session.MissingSessionIdWarning`; ``"raise"`` raises
        :class:`~cagent_session.MissingSessionId` and sends nothing.
    :param session_header: the name of the header that carries the session's ID. Some gateways read
        another one than docker-agent's, such as ``"x-session-id"``. It belongs to the gateway: a
        request to anywhere else loses a header of this name, even if you have set it. Names of
        headers are letters, digits, hyphens and underscores. Headers that HTTP and the providers
        need, such as ``Host`` and ``Authorization``, are refused.
    :param marker: the name of the header that marks the requests for the gateway. ``None`` means
        that every request to the gateway's origin is bound for it, unless a redirect has led there
        from another origin.
    :param root_header: the name of the header that carries the ID of the root session: see
        :func:`~cagent_session.root_session_id`. ``None`` means that it is not sent.
    :param parent_header: the name of the header that carries the ID of the session in which a
        :class:`~cagent_session.sub_session` was opened. ``None`` means that it is not sent.
    :raises InvalidGatewayURL: for any other URL.
    :raises ValueError: for any other value of *missing*, for an invalid name, if two names are the
        same, and if *marker* is ``None`` and there is no URL.
    :raises TypeError: if a name is not a :class:`str`.

    >>> Gateway("https://api.docker.com/models?tier=pro", missing="raise")
    Gateway('https://api.docker.com/models', missing='raise')
    >>> Gateway("https://openrouter.ai/api", session_header="x-session-id", marker=None)
    Gateway('https://openrouter.ai/api', missing='omit', session_header='x-session-id', marker=None)
    """

    urls: tuple[str, ...]
    missing: Missing
    session_header: str
    marker: str | None
    root_header: str | None
    parent_header: str | None
    names: HeaderNames  # these four, prepared for use
    origins: frozenset[Origin]
    marking: ByName  # see with_marking()
    decides_all: bool  # even about requests without a header that begins with X-Cagent-
    _prefixes: tuple[str, ...]

    def __init__(
        self,
        *urls: str,
        missing: Missing = "omit",
        session_header: str = SESSION_ID_HEADER,
        marker: str | None = FORWARD_HEADER,
        root_header: str | None = None,
        parent_header: str | None = None,
    ) -> None:
        require_known(missing)
        names = HeaderNames(session_header, marker, root_header, parent_header)
        if marker is None and not urls:
            raise ValueError("marker=None binds every request to the gateway's URL: give the URL")
        origins = frozenset(map(parse_gateway_url, urls))
        vars(self).update(
            names.given,
            urls=urls,
            missing=missing,
            names=names,
            origins=origins,
            marking={},
            decides_all=not names.are_usual,
            _prefixes=tuple(prefixes_of(origins)),
        )

    @classmethod
    def of(cls, gateway: Gateway | str | None, missing: Missing | None = None) -> Gateway:
        """Return a gateway for the parameters *gateway* and *missing* of another function.

        :param missing: ``None`` means *gateway*'s own value, or ``"omit"`` if it has none.
        """
        if not isinstance(gateway, Gateway):
            gateway = cls() if gateway is None else cls(gateway)
        if missing is None:
            return gateway
        require_known(missing)
        return gateway._with(missing=missing)  # noqa: SLF001 - it is of this class

    @classmethod
    def from_environment(
        cls,
        *,
        missing: Missing = "omit",
        session_header: str = SESSION_ID_HEADER,
        marker: str | None = FORWARD_HEADER,
        root_header: str | None = None,
        parent_header: str | None = None,
    ) -> Gateway | None:
        """Return the gateway whose URL is in the environment, or ``None`` if none is.

        The URL is read from ``DOCKER_AGENT_MODELS_GATEWAY``. If that is not set or empty, it is
        read from ``CAGENT_MODELS_GATEWAY``. As in docker-agent, white space around it and one
        ``/`` at its end are removed. If the result is ``None``, don't send the marker: with
        ``gateway=None``, a marked request to any host gets the session ID.

        The parameters are those of :class:`Gateway`. They are checked even if there is no URL.

        :raises InvalidGatewayURL: if the variable does not contain a gateway's URL. The message
            names the variable.
        :raises ValueError: for parameters that :class:`Gateway` refuses.
        :raises TypeError: if a name is not a :class:`str`.
        """
        require_known(missing)
        names = HeaderNames(session_header, marker, root_header, parent_header)
        url = url_in_environment()
        return None if url is None else cls(url, missing=missing, **names.given)

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

        The headers are those of :func:`~cagent_session.gateway_headers`. If the gateway has another
        marker, they are only the marker. If it has none, there are none.

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
        return route_to(self.urls, self.marker, provider, forward, identity)

    def with_marking(self, headers: Mapping[str, str] | None) -> Gateway:
        """Return this gateway, with *headers* for the requests to it that have no marker.

        :param headers: the marker, and other ``X-Cagent-*`` headers, such as those of a route.
            ``None`` means none. If the gateway has no marker, there can be none.
        :raises ValueError: for other headers, and if the gateway has no URL: every request of the
            program would then be bound for it.
        :raises TypeError: if *headers* is not a mapping.
        """
        if headers is None or (self.marker is None and headers == {}):
            return self
        require_marking(headers, self.marker, self.names.id_keys)
        if not self.urls:
            raise ValueError("headers can only be added if the gateway's URL is known: give it")
        return self._with(marking=by_lower_name(headers.items()), decides_all=True)

    def _with(self, **attributes: Any) -> Gateway:
        changed = type(self).__new__(type(self))
        vars(changed).update(vars(self), **attributes)
        return changed

    def decide(self, url: str, headers: ByName, *, has_left: bool = False) -> Decision:
        """Apply the rule to a request to *url*.

        ==================  =======  ==========================================================
        the request         session  what it carries
        ==================  =======  ==========================================================
        bound for gateway   yes      the current session ID. It replaces the caller's ID
        bound for gateway   no       the caller's ID, if the caller set one
        not bound for it    either   no session ID, and if a URL of the gateway is known, or a
                                     redirect left the origin, no marker and no ``X-Cagent-*``
                                     header
        ==================  =======  ==========================================================

        The IDs of the root session and of the parent follow the same rule as the session ID. Bound
        requests also carry the header of the current purpose.

        A request is bound for the gateway if it has a marker and goes to the origin of one of the
        gateway's URLs. If the gateway has no URLs, the marker is enough. If it has no marker, the
        origin is enough. docker-agent has the same rule, without the last line of the table. A
        gateway :meth:`with_marking` counts as a marker.

        :param headers: those that the caller has set. A blank marker does not count.
        :param has_left: whether a redirect left the origin of the caller's request.
        """
        names = self.names
        is_marked = is_marker(headers.get(names.marker_key, ABSENT)[1])
        # A URL that starts with one of the prefixes has a clear origin. Parsing it would be slow.
        if has_left:
            reason = LEFT_ORIGIN
        elif self.urls and not (url.startswith(self._prefixes) or origin_of(url) in self.origins):
            reason = ANOTHER_ORIGIN
        elif not is_marked and names.marker_key and not self.marking:
            reason = NO_MARKER
        else:
            attribution = current_attribution()
            reason, session_id = STAMPED, attribution.session_id
            if session_id is None:
                reason, session_id = NO_SESSION, headers.get(names.session_key, ABSENT)[1] or None
            return Decision(self, reason, is_marked, attribution, session_id)
        return Decision(self, reason, is_marked)

    def __repr__(self) -> str:
        urls = "".join(f"{without_secrets(url)!r}, " for url in self.urls)
        return f"Gateway({urls}missing={self.missing!r}{self.names!r})"

    def __eq__(self, other: object) -> bool:
        own = (self.urls, self.missing, self.names, self.marking)
        if not isinstance(other, Gateway):
            return NotImplemented
        return own == (other.urls, other.missing, other.names, other.marking)

    def __hash__(self) -> int:
        return hash((self.urls, self.missing, self.names))
