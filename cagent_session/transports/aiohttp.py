"""``session_id_trace_config``: the trace config for aiohttp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagent_session.gateway import Gateway

if TYPE_CHECKING:
    import aiohttp


def session_id_trace_config(gateway: Gateway | str | None = None) -> aiohttp.TraceConfig:
    """Return a trace config that adds the current session ID to requests of an aiohttp client.

    It follows the same rule as :class:`~cagent_session.SessionIdAdapter`, also for websockets. When
    a redirect leaves the origin, no ``X-Cagent-*`` header is sent, and none of those that the
    gateway names. One config can serve several clients. Give a client only one of them: the config
    of a second gateway would remove the headers of the first one. If another trace config sets the
    marker, put this one after it. Middlewares run later: a marker that one sets comes too late, and
    if one changes the URL, the headers go there, too.

    :param gateway: see :class:`~cagent_session.SessionIdAdapter`. With
        ``Gateway(url, missing="raise")`` the client's call raises
        :class:`~cagent_session.MissingSessionId`, before anything is sent.
    :returns: a config for the parameter ``trace_configs`` of ``aiohttp.ClientSession``.
    :raises InvalidGatewayURL: if the gateway's URL is invalid.
    :raises ModuleNotFoundError: if aiohttp is not installed.

    >>> import aiohttp
    >>> config = session_id_trace_config("https://gateway.example")
    >>> # async with aiohttp.ClientSession(trace_configs=[config]) as session: ...
    """
    # Without aiohttp, the names of this package can all be imported. It is imported first, because
    # instrument() may import the other module while another thread imports aiohttp.
    import aiohttp  # noqa: F401, PLC0415

    from cagent_session.transports.trace_config import SessionIdTraceConfig  # noqa: PLC0415

    return SessionIdTraceConfig(Gateway.of(gateway))
