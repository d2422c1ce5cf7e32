"""The headers ``X-Cagent-*``: their names, and the values that this library sets."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cagent_session.origins import origin_of

if TYPE_CHECKING:
    import uuid

FORWARD_HEADER = "X-Cagent-Forward"
SESSION_ID_HEADER = "X-Cagent-Session-Id"
PREFIX = "x-cagent-"  # the start of all these names, in lower case

HeaderValue = str | bytes

_NAME = re.compile("[A-Za-z0-9_-]+").fullmatch
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?").fullmatch
_GO_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "x86": "386",
    "armv7l": "arm",
}


def cagent_names(headers: Mapping[Any, Any]) -> list[Any]:
    """Return the names in *headers*, ``str`` or ``bytes``, that begin with ``X-Cagent-``."""
    return [name for name in headers if as_text(name).lower().startswith(PREFIX)]


def remove_cagent_headers(headers: MutableMapping[Any, Any]) -> None:
    """Remove every ``X-Cagent-*`` header, the marker and the session ID included."""
    for name in cagent_names(headers):
        del headers[name]


def is_marker(forward: object) -> bool:
    """Return whether *forward* is a value of ``X-Cagent-Forward`` that counts: not blank."""
    if not forward or not isinstance(forward, (str, bytes)):
        return False
    return not (forward.isspace() and forward.isascii())


def as_text(name: str | bytes) -> str:
    """Return a header's name as :class:`str`."""
    return name if isinstance(name, str) else name.decode("latin-1")


class StampedId(str):
    """A session ID that this library has set in a request. It remembers the caller's own value.

    A program may use the headers of a sent request for a new request. This class tells such an ID
    from one that the caller has set.
    """

    __slots__ = ("replaced",)

    replaced: HeaderValue | None

    @classmethod
    def of(cls, session_id: Any, replaced: HeaderValue | None) -> StampedId:
        """Return *session_id*, which replaces the caller's value *replaced*."""
        stamped = cls(session_id)
        stamped.replaced = replaced
        return stamped

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> StampedBytes:
        """Return the bytes that httpx keeps in its headers. They remember this ID."""
        encoded = StampedBytes(super().encode(encoding, errors))
        encoded.stamped = self
        return encoded

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str.__str__(self),)


def callers_value(value: HeaderValue | None) -> HeaderValue | None:
    """Return the caller's session ID: *value*, or the one that it replaced if we have set it."""
    return value.replaced if isinstance(value, StampedId) else value


class SentMarker(str):
    """A marker in copied headers. It remembers the URL that the headers were sent to.

    Other code may make plain headers of the copy. This value is then all that remembers the URL.
    """

    __slots__ = ("url",)

    url: str

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str.__str__(self),)


class StampedBytes(bytes):
    """A :class:`StampedId` as bytes. It is pickled as the caller's value, or as ``b""``."""

    stamped: StampedId

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


def require_marking(headers: Mapping[str, str]) -> None:
    """Raise an error if *headers* can't mark a request: see ``Gateway.with_marking``."""
    require_sendable(headers)
    others = [name for name in headers if not name.lower().startswith(PREFIX)]
    if others:
        raise ValueError(f"headers must be X-Cagent-* headers only, got {others[0]}")
    names = [name.lower() for name in headers]
    if SESSION_ID_HEADER.lower() in names:
        raise ValueError(f"headers must not contain {SESSION_ID_HEADER}: use session_scope()")
    if len(set(names)) < len(names):
        raise ValueError("headers must not contain the same name twice, in different cases")
    if FORWARD_HEADER.lower() not in names:
        raise ValueError(f"headers must contain {FORWARD_HEADER}: use gateway_headers(...)")


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
        "X-Cagent-GeneratingTitle": "1" if generating_title else None,
        "X-Cagent-Compacting": "1" if compacting else None,
    }
    present = {name: value for name, value in headers.items() if value}
    require_sendable(present)
    return present
