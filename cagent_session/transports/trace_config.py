"""``SessionIdTraceConfig``: what ``session_id_trace_config`` returns. It needs aiohttp."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import aiohttp
from yarl import URL

from cagent_session.gateway import Gateway
from cagent_session.origins import left_origin
from cagent_session.transports.mappings import stamp


class SessionIdTraceConfig(aiohttp.TraceConfig):
    """The result of :func:`~cagent_session.session_id_trace_config`."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self.gateway = gateway
        self.on_request_start.append(self._on_start)
        self.on_request_redirect.append(self._on_redirect)

    async def _on_start(
        self, _: aiohttp.ClientSession, __: Any, start: aiohttp.TraceRequestStartParams
    ) -> None:
        request = SimpleNamespace(method=start.method, url=_http_url(start.url))
        stamp(request, start.headers, self.gateway)

    async def _on_redirect(
        self, _: aiohttp.ClientSession, call: Any, redirect: aiohttp.TraceRequestRedirectParams
    ) -> None:
        # aiohttp sends the same headers to the next URL. It finds the URL in the same way.
        answer = redirect.response.headers
        location = answer.get("Location") or answer.get("URI")
        if not location:
            return
        url, target = _http_url(redirect.url), ""
        with contextlib.suppress(ValueError):  # aiohttp then raises an error of its own
            target = _http_url(redirect.url.join(URL(location)))
        request = SimpleNamespace(method=redirect.method, url=target)
        call.has_left = getattr(call, "has_left", False) or left_origin(url, target)
        stamp(request, redirect.headers, self.gateway, has_left=call.has_left)

    def __repr__(self) -> str:
        return f"session_id_trace_config({self.gateway!r})"


def _http_url(url: URL) -> str:
    """Return *url* with http or https for ws or wss: a websocket begins as an HTTP request."""
    text = str(url)
    return f"http{text[2:]}" if url.scheme in ("ws", "wss") else text
