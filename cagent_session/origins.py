"""URLs: their origins (scheme, host and port), and the gateway's URL in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from urllib3.util import parse_url

Origin = tuple[str, str, int]

_VARIABLES = ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY")

DEFAULT_PORTS = {"http": 80, "https": 443}
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_VALID_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]").fullmatch
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\]").search  # URL parsers disagree about these


class InvalidGatewayURL(ValueError):  # noqa: N818 - a public name of the design
    """The URL is not one that a gateway can have.

    The message never repeats the URL, because it may contain a password.
    """


def origin_of(url: str) -> Origin | None:
    """Return scheme, host and port of *url*, or ``None`` if URL parsers may disagree about them.

    The scheme is http or https. The host is in lower case, IDNA-encoded as in requests, and without
    a dot at its end. If *url* has no port, it is the scheme's default.
    """
    try:
        parsed, netloc = parse_url(url), urlsplit(url).netloc
    except ValueError:
        return None
    host, scheme = (parsed.host or "").removesuffix("."), parsed.scheme
    if scheme not in DEFAULT_PORTS or not host or _AMBIGUOUS(url):
        return None
    if "%" in netloc.rpartition("@")[2]:
        return None
    return scheme, host, DEFAULT_PORTS[scheme] if parsed.port is None else parsed.port


def prefixes_of(origins: Iterable[Origin]) -> Iterator[str]:
    """Yield how the URLs of *origins* usually begin."""
    for scheme, host, port in origins:
        yield f"{scheme}://{host}:{port}/"
        if port == DEFAULT_PORTS[scheme]:
            yield f"{scheme}://{host}/"


def left_origin(old_url: str, new_url: str) -> bool:
    """Return whether a redirect from *old_url* to *new_url* leaves the origin.

    A redirect from http to https on the default ports of the same host does not leave it. requests
    keeps ``Authorization`` by the same rule (``SessionRedirectMixin.should_strip_auth``).
    """
    if old_url == new_url:
        return False
    old, new = origin_of(old_url), origin_of(new_url)
    if old is None or new is None:
        return True
    return new not in (old, ("https", old[1], 443) if old[::2] == ("http", 80) else old)


def without_secrets(url: str) -> str:
    """Return *url* without user, password, query and fragment, which may contain a key."""
    if origin_of(url) is None:
        return "a URL that can't be read"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def url_in_environment() -> str | None:
    """Return the gateway's URL in the environment: see ``Gateway.from_environment``.

    :raises InvalidGatewayURL: if it is not one that a gateway can have.
    """
    for name in _VARIABLES:
        url = os.environ.get(name, "").strip().removesuffix("/")
        if url:
            try:
                parse_gateway_url(url)
            except InvalidGatewayURL as error:
                raise InvalidGatewayURL(f"environment variable {name}: {error}") from None
            return url
    return None


def parse_gateway_url(url: str) -> Origin:
    """Return the origin of a gateway's URL.

    :param url: see :class:`Gateway`.
    :raises InvalidGatewayURL: for any other value.
    """
    if not isinstance(url, str):
        raise InvalidGatewayURL(f"gateway URL must be a str, got {type(url).__name__}")
    netloc = re.split("[/?#]", url.partition("://")[2])[0]
    forbidden = {
        "white space, control characters or a backslash": _AMBIGUOUS(url),
        "a user or a password: send credentials in a header": "@" in netloc,
        "a fragment": "#" in url,
    }
    for part, is_there in forbidden.items():
        if is_there:
            raise InvalidGatewayURL(f"gateway URL must not contain {part}")
    if not url.lower().startswith(("http://", "https://")):
        raise InvalidGatewayURL("gateway URL must be absolute, and start with http:// or https://")
    origin = origin_of(url)
    if origin is None or not _VALID_HOST(origin[1]) or not origin[2]:
        raise InvalidGatewayURL(
            "gateway URL must have a valid host, and a port from 1 to 65535 if it has one"
        )
    return origin
