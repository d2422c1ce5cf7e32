"""Routes: what a client needs to call a provider of models through the gateway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from cagent_session.headers import FORWARD_HEADER, gateway_headers
from cagent_session.immutable import Immutable
from cagent_session.origins import without_secrets


class Provider(NamedTuple):
    """Where docker-agent's gateway serves a provider, and where it forwards its calls to."""

    suffix: str
    forward: str


# docker-agent's providers. The aliases of openai have its suffix, and a forward of their own.
PROVIDERS = {
    "openai": Provider("/v1/", "https://api.openai.com/v1"),
    "anthropic": Provider("/", "https://api.anthropic.com/"),
    "google": Provider("/", "https://generativelanguage.googleapis.com/"),
    "dmr": Provider("/v1/", "http://127.0.0.1:12434/engines/v1/"),
    "baseten": Provider("/v1/", "https://inference.baseten.co/v1"),
    "cerebras": Provider("/v1/", "https://api.cerebras.ai/v1"),
    "deepseek": Provider("/v1/", "https://api.deepseek.com/v1"),
    "fireworks": Provider("/v1/", "https://api.fireworks.ai/inference/v1"),
    "groq": Provider("/v1/", "https://api.groq.com/openai/v1"),
    "huggingface": Provider("/v1/", "https://router.huggingface.co/v1"),
    "minimax": Provider("/v1/", "https://api.minimax.io/v1"),
    "mistral": Provider("/v1/", "https://api.mistral.ai/v1"),
    "moonshot": Provider("/v1/", "https://api.moonshot.ai/v1"),
    "nebius": Provider("/v1/", "https://api.studio.nebius.com/v1"),
    "nvidia": Provider("/v1/", "https://integrate.api.nvidia.com/v1"),
    "ollama": Provider("/v1/", "http://localhost:11434/v1"),
    "openrouter": Provider("/v1/", "https://openrouter.ai/api/v1"),
    "ovhcloud": Provider("/v1/", "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1"),
    "requesty": Provider("/v1/", "https://router.requesty.ai/v1"),
    "together": Provider("/v1/", "https://api.together.xyz/v1"),
    "vercel": Provider("/v1/", "https://ai-gateway.vercel.sh/v1"),
    "xai": Provider("/v1/", "https://api.x.ai/v1"),
}


class Route(Immutable):
    """What a client needs to call a provider through the gateway. It never changes.

    Routes can be compared, hashed, copied and pickled. :meth:`Gateway.route` makes them.

    :param base_url: the base URL for the provider's SDK.
    :param headers: the headers that each call needs: the marker, and those about the caller.
    :param query: the query that each call needs: that of the gateway's URL.
    """

    base_url: str

    def __init__(self, base_url: str, headers: Mapping[str, str], query: Mapping[str, str]) -> None:
        vars(self).update(base_url=base_url, _headers=dict(headers), _query=dict(query))

    @property
    def headers(self) -> dict[str, str]:
        """The headers that each call needs. It is a new dictionary each time."""
        return dict(vars(self)["_headers"])

    @property
    def query(self) -> dict[str, str]:
        """The query that each call needs. It is a new dictionary each time."""
        return dict(vars(self)["_query"])

    def __repr__(self) -> str:
        return f"Route({without_secrets(self.base_url)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Route) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self.base_url)


def route_to(
    urls: Sequence[str],
    marker: str | None,
    provider: str,
    forward: str | None,
    identity: Mapping[str, Any],
) -> Route:
    """Return the route to *provider* through a gateway: see ``Gateway.route``.

    :param urls: the gateway's URLs.
    :param marker: the name of the header that the gateway takes for the marker, if it has one.
    :param identity: other parameters of :func:`~cagent_session.gateway_headers`.
    """
    if not urls:
        raise ValueError("route() needs the gateway's URL: Gateway(url).route(...)")
    if provider not in PROVIDERS and forward is None:
        import difflib  # noqa: PLC0415 - imported late, to keep the package's import fast

        close = difflib.get_close_matches(str(provider).lower(), PROVIDERS)
        known = (
            f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(PROVIDERS)}."
        )
        raise ValueError(
            f"there is no provider {provider!r} in the table: {known} For a provider that is "
            "compatible with OpenAI, give its base URL as forward="
        )
    suffix, usual_forward = PROVIDERS.get(provider, PROVIDERS["openai"])
    url = usual_forward if forward is None else forward
    headers = gateway_headers(url, provider=provider, **identity)
    if marker is None or marker.lower() != FORWARD_HEADER.lower():
        headers = {marker: url} if marker else {}
    address, _, text = urls[0].partition("?")
    query = parse_qsl(text, keep_blank_values=True)
    if len(dict(query)) < len(query):
        raise ValueError("the query of the gateway's URL has the same name twice")
    return Route(address.removesuffix("/") + suffix, headers, dict(query))
