"""The headers ``X-Cagent-*``: their names, and the values that this library sets."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cagent_session.origins import origin_of

if TYPE_CHECKING:
    import uuid

FORWARD_HEADER = "X-Cagent-Forward"
SESSION_ID_HEADER = "X-Cagent-Session-Id"
PREFIX = "x-cagent-"  # the start of all these names, in lower case
PURPOSES = {
    "generating_title": "X-Cagent-GeneratingTitle",
    "compacting": "X-Cagent-Compacting",
}

HeaderValue = str | bytes
ByName = dict[Any, tuple[Any, Any]]  # names and values by the names in lower case
ABSENT = (None, None)  # a name and a value

_NAME = re.compile("[A-Za-z0-9_-]+").fullmatch
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?").fullmatch
_RESERVED = {  # headers that HTTP, providers or this library need for something else
    "accept",
    "accept-encoding",
    "api-key",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-api-key",
    "x-goog-api-key",
    *map(str.lower, PURPOSES.values()),
}
_GO_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "x86": "386",
    "armv7l": "arm",
}


def is_marker(forward: object) -> bool:
    """Return whether *forward* is a value of ``X-Cagent-Forward`` that counts: not blank."""
    if not forward or not isinstance(forward, (str, bytes)):
        return False
    return not (forward.isspace() and forward.isascii())


def as_text(name: str | bytes) -> str:
    """Return a header's name as :class:`str`."""
    return name if isinstance(name, str) else name.decode("latin-1")


class Stamped(str):
    """A value that this library has set in a request. It remembers the caller's own value.

    A program may use the headers of a sent request for a new request. This class tells such a value
    from one that the caller has set.
    """

    __slots__ = ("replaced",)

    replaced: HeaderValue | None

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> StampedBytes:
        """Return the bytes that httpx keeps in its headers. They remember this value."""
        encoded = StampedBytes(super().encode(encoding, errors))
        encoded.stamped = self
        return encoded

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str.__str__(self),)


def stamped(value: Any, replaced: HeaderValue | None) -> Stamped:
    """Return *value*, which replaces the caller's value *replaced*."""
    made = Stamped(value)
    made.replaced = replaced
    return made


def callers_value(value: HeaderValue | None) -> HeaderValue | None:
    """Return the caller's value: *value*, or the one that it replaced if we have set it."""
    value = value.stamped if isinstance(value, StampedBytes) else value
    return value.replaced if isinstance(value, Stamped) else value


def by_lower_name(headers: Iterable[tuple[Any, Any]]) -> ByName:
    """Return the names and values of *headers* by their names in lower case.

    They are :class:`str` or :class:`bytes`, and become :class:`str` if they are ASCII.
    """
    by_name: ByName = {}
    for name, value in headers:
        text = as_text(name)
        key = text if text.isascii() else name
        by_name[key.lower()] = (key, value)
    return by_name


def callers_by_name(headers: Iterable[tuple[Any, Any]]) -> ByName:
    """Return those of *headers* that the caller has set: see :func:`by_lower_name`."""
    own = ((name, callers_value(value)) for name, value in headers)
    return by_lower_name((name, value) for name, value in own if value is not None)


class SentMarker(str):
    """A marker in copied headers. It remembers the URL that the headers were sent to.

    Other code may make plain headers of the copy. This value is then all that remembers the URL.
    """

    __slots__ = ("url",)

    url: str

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str.__str__(self),)


class StampedBytes(bytes):
    """A :class:`Stamped` value as bytes. It is pickled as the caller's value, or as ``b""``."""

    stamped: Stamped

    def __deepcopy__(self, memo: object) -> StampedBytes:
        return self

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (as_text(self.stamped.replaced or "").encode(),)


def require_sendable(headers: Mapping[str, Any]) -> None:
    """Raise an error if *headers* can't be sent unchanged.

    :param headers: names of letters, digits, hyphens and underscores; values of visible ASCII
        characters, with spaces only between them.
    :raises ValueError: for another name or value. The message does not repeat the value.
    :raises TypeError: if *headers* is not a mapping.
    """
    if not isinstance(headers, Mapping):
        kind = type(headers).__name__
        raise TypeError(f"headers must be a mapping of names to values, got {kind}")
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME(name):
            raise ValueError(
                f"a header's name must be letters, digits, hyphens and underscores, got {name!r}"
            )
        if not isinstance(value, str) or not _VALUE(value):
            raise ValueError(
                f"the value of {name} must be visible ASCII characters, with spaces only inside"
            )


def require_header_name(parameter: str, name: object) -> None:
    """Raise an error if the value of this parameter, *name*, can't be the name of a header.

    :raises TypeError: if it is not a :class:`str`.
    :raises ValueError: if it has other characters than letters, digits, hyphens and underscores, or
        if HTTP, providers or this library need the header for something else.
    """
    if not isinstance(name, str):
        raise TypeError(f"{parameter} must be the name of a header, got {type(name).__name__}")
    if not _NAME(name):
        rule = "letters, digits, hyphens and underscores"
        raise ValueError(f"{parameter} must be the name of a header ({rule}), got {name!r}")
    if name.lower() == "none" and parameter != "session_header":
        raise ValueError(
            f"{parameter} must be None, without quotation marks, if there is no header"
        )
    if name.lower() in _RESERVED:
        raise ValueError(f"{parameter} must not be {name}, which has a meaning of its own")


def require_marking(
    headers: Mapping[str, str], marker: str | None, id_keys: Collection[str]
) -> None:
    """Raise an error if *headers* can't mark a request: see ``Gateway.with_marking``.

    :param id_keys: the names of the headers that carry IDs of sessions, in lower case.
    """
    if marker is None:
        raise ValueError("headers can only be added for a gateway that has a marker")
    require_sendable(headers)
    names = [name.lower() for name in headers]
    others = [
        n for n in headers if not n.lower().startswith(PREFIX) and n.lower() != marker.lower()
    ]
    if others:
        raise ValueError(f"headers must be {marker} and X-Cagent-* headers only, got {others[0]}")
    ids = [name for name in headers if name.lower() in id_keys]
    if ids:
        raise ValueError(f"headers must not contain {ids[0]}: use session_scope()")
    if len(set(names)) < len(names):
        raise ValueError("headers must not contain the same name twice, in different cases")
    if marker.lower() not in names:
        raise ValueError(f"headers must contain {marker}: use gateway.route(...).headers")


def gateway_headers(  # noqa: PLR0913 - one keyword for each of docker-agent's headers
    forward: str,
    *,
    provider: str | None = None,
    model: str | None = None,
    model_name: str | None = None,
    install_id: str | uuid.UUID | None = None,
    generating_title: bool = False,
    compacting: bool = False,
) -> dict[str, str]:
    """Return the marker and the headers that identify the caller, as docker-agent sends them.

    Pass them as ``headers=`` or ``default_headers=``, or add them to ``session.headers``. Each
    value must be visible ASCII characters, with spaces only between them. Empty values are left
    out.

    :param forward: the provider's base URL, to which the gateway forwards the request: absolute,
        http or https, without user and password. It is the value of the marker,
        ``X-Cagent-Forward``.
    :param provider: the provider's name, such as ``"openai"``.
    :param model: the model's ID, such as ``"gpt-4o"``.
    :param model_name: the name that the agent's configuration gives the model.
    :param install_id: the ID of the caller's installation. This library stores none.
    :param generating_title: whether the call generates a session's title.
    :param compacting: whether the call compacts a session's history.
    :raises ValueError: for any other value. The message does not repeat it.

    >>> gateway_headers("https://api.openai.com/v1", provider="openai")["X-Cagent-Forward"]
    'https://api.openai.com/v1'
    """
    import platform  # noqa: PLC0415 - imported late, to keep the package's import fast
    import uuid  # noqa: PLC0415

    from cagent_session import __version__  # noqa: PLC0415 - the package imports this module

    if not isinstance(forward, str) or not origin_of(forward) or "@" in urlsplit(forward).netloc:
        raise ValueError("forward must be an absolute http or https URL, without user and password")
    machine = platform.machine().lower()
    headers = {
        FORWARD_HEADER: forward,
        "X-Cagent-Lang": "python",
        "X-Cagent-OS": "windows" if sys.platform == "win32" else sys.platform,
        "X-Cagent-Arch": _GO_MACHINES.get(machine, machine),
        "X-Cagent-Runtime": "cagent-session",
        "X-Cagent-Runtime-Version": __version__,
        "X-Cagent-Provider": provider,
        "X-Cagent-Model": model,
        "X-Cagent-Model-Name": model_name,
        "X-Cagent-Id": str(install_id) if isinstance(install_id, uuid.UUID) else install_id,
        PURPOSES["generating_title"]: "1" if generating_title else None,
        PURPOSES["compacting"]: "1" if compacting else None,
    }
    present = {name: value for name, value in headers.items() if value}
    require_sendable(present)
    return present
