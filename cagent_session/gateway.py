"""What is gateway-bound, and what does it carry? The header names, origins, and the rule."""

from __future__ import annotations

import functools
import platform
import re
import sys
import uuid
import warnings
from collections.abc import Mapping, MutableMapping
from importlib import metadata
from typing import Any, Literal
from urllib.parse import urlsplit

from requests.sessions import SessionRedirectMixin
from urllib3.util import parse_url

from cagent_session.context import current_session_id

FORWARD_HEADER = "X-Cagent-Forward"
SESSION_ID_HEADER = "X-Cagent-Session-Id"

Missing = Literal["omit", "warn", "raise"]
HeaderValue = str | bytes
Origin = tuple[str, str, int]
Stamp = tuple[HeaderValue | None, HeaderValue | None]  # what we set, and what the caller had set in its place

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_VALID_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]").fullmatch
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\]").search  # what one URL parser strips, another keeps or takes for a slash
_HEADER_NAME = re.compile("[A-Za-z0-9_-]+").fullmatch
_HEADER_TEXT = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?").fullmatch
_GO_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386", "x86": "386", "armv7l": "arm"}
_TRANSPORTS = {"cagent_session", "requests", "httpx", "httpx2", "opentelemetry"}  # the last wraps the others

_redirects: Any = SessionRedirectMixin()  # untyped in the stubs of requests before 2.34


class InvalidGatewayURL(ValueError):  # noqa: N818 - a public name of the design, like those below
    """A gateway URL that is not a gateway's address. The message never repeats it: it could hold a password."""


class MissingSessionId(RuntimeError):  # noqa: N818
    """A gateway-bound request was about to go out in no session, and ``missing`` is ``"raise"``."""


class MissingSessionIdWarning(UserWarning):
    """A gateway-bound request goes out in no session, and ``missing`` is ``"warn"``."""


class Rule:
    """The rule of what goes out in ``X-Cagent-Session-Id``. Every transport asks it, and decides nothing itself.

    Its requests are those of requests, httpx and httpx2, which all have a ``method`` and a ``url``. For the parameters
    see :class:`cagent_session.SessionIdAdapter`.
    """

    def __init__(self, gateway: str | None = None, missing: Missing = "omit") -> None:
        if missing not in ("omit", "warn", "raise"):
            raise ValueError(f'missing must be "omit", "warn" or "raise", got {missing!r}')
        self.gateway = gateway
        self.missing: Missing = missing
        if gateway is not None:
            self._origin = scheme, host, port = parse_gateway_url(gateway)
            # Up to the first slash a URL has one reading only: the usual spellings are told without parsing.
            shortest = f"{scheme}://{host}" if port == _DEFAULT_PORTS[scheme] else f"{scheme}://{host}:{port}"
            self._prefixes = (f"{shortest}/", f"{scheme}://{host}:{port}/")

    def session_id_for(
        self, request: Any, forward: HeaderValue | None, callers: HeaderValue | None
    ) -> HeaderValue | None:
        """Return the session ID that *request* carries, or ``None`` for no such header.

        ==================  =======  ====================================================
        the request         session  what goes out
        ==================  =======  ====================================================
        gateway-bound       yes      the ID in scope; it replaces a value the caller set
        gateway-bound       no       a value that the caller set stays; none is invented
        not gateway-bound   either   never any; one that is there is removed
        ==================  =======  ====================================================

        The rule of docker-agent's transport, but for the removal and the pinned gateway, which are ours.

        :param forward: the request's marker, if any.
        :param callers: the value that the caller set, if any.
        :raises MissingSessionId: where nothing would go out, and *missing* is ``"raise"``.
        """
        if not self.is_gateway_bound(request, forward):
            return None
        session_id = current_session_id()
        if session_id is None and not callers and self.missing != "omit":
            self._report_missing(request)
        return callers if session_id is None else session_id

    def is_gateway_bound(self, request: Any, forward: HeaderValue | None) -> bool:
        """Tell whether *forward*, the marker, is not blank and *request*, with a pinned gateway, goes to its origin."""
        if not forward or not isinstance(forward, (str, bytes)) or forward.isspace():
            return False
        if self.gateway is None:
            return True
        url = str(request.url)
        return url.startswith(self._prefixes) or origin_of(url) == self._origin

    def stamp_for(
        self, request: Any, forward: HeaderValue | None, present: HeaderValue | None, earlier: Stamp | None
    ) -> Stamp | None:
        """Return what to change before *request* is sent, or ``None`` to send it as it is.

        :param forward: the request's marker, if any.
        :param present: the session ID that it has, if any.
        :param earlier: the stamp of an earlier sending: what we set then is not the caller's now.
        """
        if not forward and present is None:  # most of a program's requests, at the least cost
            return None
        callers = earlier[1] if earlier is not None and earlier[0] == present else present
        session_id = self.session_id_for(request, forward, callers)
        return None if session_id == present else (session_id, callers)

    def _report_missing(self, request: Any) -> None:
        target = without_secrets(str(request.url)) or "to a URL that can't be read"
        message = (
            f"{request.method} {target} is bound for the models gateway but in no session: "
            "make the call inside session_scope()"
        )
        if self.missing == "raise":
            raise MissingSessionId(message)
        warnings.warn(message, MissingSessionIdWarning, stacklevel=_callers_stacklevel())


def origin_of(url: str) -> Origin | None:
    """Return scheme, host and effective port of *url*; ``None`` where that is not http or https, or open to doubt.

    The host is lower-cased and IDNA-encoded, as requests prepares it, and has no trailing dot.
    """
    try:
        parsed, netloc = parse_url(url), urlsplit(url).netloc
    except ValueError:
        return None
    host = (parsed.host or "").removesuffix(".")
    if parsed.scheme not in _DEFAULT_PORTS or not host or _AMBIGUOUS(url) or "%" in netloc.rpartition("@")[2]:
        return None
    return parsed.scheme, host, _DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port


def without_secrets(url: str) -> str | None:
    """Return *url* without user info and query, which may hold a key; ``None`` where it can't be read."""
    if origin_of(url) is None:
        return None
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def leaves_origin(old_url: str, new_url: str) -> bool:
    """Tell whether a redirect from *old_url* to *new_url* leaves the origin.

    By the rule by which requests drops ``Authorization``: ``SessionRedirectMixin.should_strip_auth``.
    """
    try:
        return bool(_redirects.should_strip_auth(old_url, new_url))
    except ValueError:  # what can't be read is nobody's origin
        return True


def set_session_id(headers: MutableMapping[str, Any], session_id: HeaderValue | None) -> None:
    """Set the session ID header, or remove it where *session_id* is ``None``."""
    if session_id is None:
        headers.pop(SESSION_ID_HEADER, None)
    else:
        headers[SESSION_ID_HEADER] = session_id


def remove_cagent_headers(headers: MutableMapping[Any, Any]) -> None:
    """Remove every ``X-Cagent-*`` header, the marker and the session ID included."""
    for name in list(headers):
        if (name if isinstance(name, str) else name.decode("latin-1")).lower().startswith("x-cagent-"):
            del headers[name]


def parse_gateway_url(url: str) -> Origin:
    """Return the origin of a gateway's URL.

    :param url: absolute, http or https, with a host and, if it has one, a port from 1 to 65535; without user,
        password, query and fragment. A path is allowed.
    :raises InvalidGatewayURL: for anything else.
    """
    if not isinstance(url, str):
        raise InvalidGatewayURL(f"gateway URL must be a str, got {type(url).__name__}")
    if _AMBIGUOUS(url):
        raise InvalidGatewayURL("gateway URL must not contain white space, control characters or a backslash")
    if not url.lower().startswith(("http://", "https://")):
        raise InvalidGatewayURL("gateway URL must be absolute, and start with http:// or https://")
    if "@" in url.split("/")[2]:
        raise InvalidGatewayURL("gateway URL must not contain a user or a password: send credentials in a header")
    if "?" in url or "#" in url:
        raise InvalidGatewayURL("gateway URL must not contain a query or a fragment")
    origin = origin_of(url)
    if origin is None or not _VALID_HOST(origin[1]) or not origin[2]:
        raise InvalidGatewayURL("gateway URL must have a valid host, and a port from 1 to 65535 if it has one")
    return origin


def require_sendable(headers: Mapping[str, Any]) -> None:
    """Refuse headers that could not go on the wire as they are.

    :param headers: names of letters, digits, hyphens and underscores, and values of visible ASCII characters, with
        spaces only inside.
    :raises ValueError: for another header; the message does not repeat its value.
    :raises TypeError: if *headers* is no mapping.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of names to values, got {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME(name):
            raise ValueError(f"a header's name must be letters, digits, hyphens and underscores, got {name!r}")
        if not isinstance(value, str) or not _HEADER_TEXT(value):
            raise ValueError(f"the value of {name} must be visible ASCII characters, with spaces only inside")


def gateway_headers(  # noqa: PLR0913 - one keyword for each of upstream's headers
    forward: str,
    *,
    provider: str | None = None,
    model: str | None = None,
    model_name: str | None = None,
    install_id: str | uuid.UUID | None = None,
    generating_title: bool = False,
    compacting: bool = False,
) -> dict[str, str]:
    """Return the marker and the identity headers, for ``session.headers``, ``default_headers=`` or ``headers=``.

    Upstream sets the same ones. Values are visible ASCII characters, with spaces only inside; empty ones are left out.

    :param forward: the provider's base URL, to which the gateway forwards: absolute, http or https, without user and
        password. It becomes the marker, ``X-Cagent-Forward``.
    :param provider: the provider's name, such as ``"openai"``.
    :param model: the model's ID, such as ``"gpt-4o"``.
    :param model_name: the name that the agent's configuration gives the model.
    :param install_id: the caller's persistent installation ID; this library stores none.
    :param generating_title: whether the call generates a session's title.
    :param compacting: whether the call compacts a session's history.
    :raises ValueError: for any other value, which the message does not repeat.

    >>> gateway_headers("https://api.openai.com/v1", provider="openai")["X-Cagent-Forward"]
    'https://api.openai.com/v1'
    """
    if not isinstance(forward, str) or origin_of(forward) is None or "@" in urlsplit(forward).netloc:
        raise ValueError("forward must be an absolute http or https URL, without user and password")
    machine = platform.machine().lower()
    headers = {
        FORWARD_HEADER: forward,
        "X-Cagent-Lang": "python",
        "X-Cagent-OS": "windows" if sys.platform == "win32" else sys.platform,
        "X-Cagent-Arch": _GO_MACHINES.get(machine, machine),
        "X-Cagent-Runtime": "cagent-session",
        "X-Cagent-Runtime-Version": _version(),
        "X-Cagent-Provider": provider,
        "X-Cagent-Model": model,
        "X-Cagent-Model-Name": model_name,
        "X-Cagent-Id": str(install_id) if isinstance(install_id, uuid.UUID) else install_id,
        "X-Cagent-GeneratingTitle": "1" if generating_title else None,
        "X-Cagent-Compacting": "1" if compacting else None,
    }
    present = {name: value for name, value in headers.items() if value}
    require_sendable(present)
    return present


@functools.cache
def _version() -> str:
    return metadata.version("cagent-session")


def _callers_stacklevel() -> int:
    """Return the ``stacklevel`` at which a warning points at whoever used the transport, not into it."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001 - as the warnings module does; skip_file_prefixes is from 3.12
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _TRANSPORTS:
        level, frame = level + 1, frame.f_back
    return level
