"""``SentHeaders``: request headers that remember where they were sent, and the caller's values."""

from __future__ import annotations

from typing import Any, cast

import requests
from requests.structures import CaseInsensitiveDict

from cagent_session.decision import Decision
from cagent_session.headers import (
    FORWARD_HEADER,
    ByName,
    SentMarker,
    as_text,
    by_lower_name,
    callers_by_name,
)
from cagent_session.origins import left_origin

# CaseInsensitiveDict keeps its values in one private attribute, which is such a dict. Using it is
# several times faster than the public methods. If a release of requests keeps them in another way,
# the public methods are used.
_STORE = "_store"
_HAS_STORE = getattr(CaseInsensitiveDict(A="b"), "__dict__", {}) == {_STORE: {"a": ("A", "b")}}


class SentHeaders(CaseInsensitiveDict[Any]):
    """Headers that remember the URL they were sent to, and whether they are a copy.

    While a request is sent, *callers* are the headers of the caller's request. What an inner
    adapter writes here is written there, too. *decision* says what this library has changed here,
    and *stamps* are the values that remember the caller's. *state* has the attributes of the
    request before the inner adapter could change them. *has_left* is set for good when a redirect
    has left the origin.
    """

    url: str = ""
    marker_key: str | None = FORWARD_HEADER.lower()
    is_copy = False
    has_left = False
    callers: SentHeaders | None = None
    decision: Decision
    stamps: ByName
    state: dict[str, Any] | None = None

    @classmethod
    def of(cls, by_name: ByName, url: str) -> SentHeaders:
        """Return headers with these names and values, which are sent to *url*."""
        headers = cls.__new__(cls)
        headers.replace_all(by_name)
        headers.url = url
        return headers

    def replace_all(self, by_name: ByName) -> None:
        """Replace all names and values by those of *by_name*."""
        headers: Any = self
        if _HAS_STORE:
            headers._store = by_name  # noqa: SLF001 - see _STORE
        else:
            headers.__init__(by_name.values())

    def set_all(self, by_name: ByName) -> None:
        """Set the names and values of *by_name*, here only."""
        if _HAS_STORE:
            stored_in(self).update(by_name)
        else:
            self.replace_all({**stored_in(self), **by_name})

    def copy(self) -> SentHeaders:
        """Return a copy that knows it is one. requests copies headers to follow a redirect."""
        by_name, key = {**stored_in(self)}, self.marker_key
        if self.callers is not None:  # an inner adapter sends a copy
            by_name.update(self.stamps)
        name, value = by_name.get(key, (key, None))
        if isinstance(value, str):
            marker = SentMarker(value)
            marker.url = value.url if isinstance(value, SentMarker) else self.url
            by_name[key] = (name, marker)
        copied = self.of(by_name, self.url)
        copied.is_copy, copied.has_left = True, self.has_left
        return copied

    __copy__ = copy

    def moved_to(self, url: str, by_name: ByName, key: str | None) -> tuple[bool, ByName]:
        """Return whether a redirect to *url* leaves the origin, if these headers are a copy.

        If it does, nothing is changed here, because another thread may send the same request.

        :param by_name: the headers that the caller set.
        :param key: the name of the marker in lower case.
        :returns: also *by_name*, with a plain :class:`str` in place of a :class:`SentMarker`.
        """
        name, marker = by_name.get(key, (None, None))
        has_left = self.is_copy and left_origin(self.url, url)
        if isinstance(marker, SentMarker):
            has_left = has_left or left_origin(marker.url, url)
            by_name = {**by_name, key: (name, str(marker))}
        if not has_left:
            self.is_copy = False
            if isinstance(marker, SentMarker):
                self[name] = str(marker)
        return has_left, by_name

    def __deepcopy__(self, memo: object) -> SentHeaders:
        return self.copy()

    def __setitem__(self, name: Any, value: Any) -> None:
        super().__setitem__(name, value)
        if self.callers is not None:
            self._forget_stamp_at(name)
            self.callers[name] = value

    def __delitem__(self, name: Any) -> None:
        super().__delitem__(name)
        if self.callers is not None:
            self._forget_stamp_at(name)
            self.callers.pop(name, None)

    def _forget_stamp_at(self, name: Any) -> None:
        self.stamps.pop(as_text(name).lower(), None)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as plain headers with the caller's values. They load without this library."""
        return CaseInsensitiveDict, (dict(callers_by_name(self.items()).values()),)


def stored_in(headers: Any) -> ByName:
    """Return the names and values of *headers* by their names in lower case."""
    if _HAS_STORE and (type(headers) is SentHeaders or type(headers) is CaseInsensitiveDict):
        stored: Any = headers
        return cast("ByName", stored._store)  # noqa: SLF001 - see _STORE
    return by_lower_name((headers or {}).items())


def remember(request: requests.PreparedRequest) -> SentHeaders:
    """Turn the headers of *request* into :class:`SentHeaders`, and return them."""
    headers: Any = request.headers
    if type(headers) is CaseInsensitiveDict:
        sent: Any = headers
        sent.__class__ = SentHeaders  # so that they remain the same object
        sent.replace_all(dict(stored_in(sent)))  # an OrderedDict copies ten times slower
    else:
        request.headers = SentHeaders(headers)
    return cast("SentHeaders", request.headers)


def copy_of(request: requests.PreparedRequest, headers: SentHeaders) -> requests.PreparedRequest:
    """Return a shallow copy of *request* that has these *headers*."""
    headers.state = {**request.__dict__, "headers": headers}
    copied = type(request).__new__(type(request))
    copied.__dict__.update(headers.state)
    return copied


def hand_back(outgoing: requests.PreparedRequest, sent: Any, request: Any) -> None:
    """Copy to *request* what an inner adapter has changed in *outgoing*, which was sent.

    If *request* itself was sent, only remember the URL to which the inner adapter has sent it.

    :param sent: the headers with which *outgoing* was given to the inner adapter.
    """
    headers: Any = outgoing.headers
    if outgoing is request:
        if type(headers) is SentHeaders:
            headers.url = request.url or ""
        return
    if headers is sent:
        if vars(outgoing) != sent.state:
            vars(request).update(_changed(outgoing, sent.state))
            sent.url = sent.callers.url = outgoing.url or ""
        sent.callers = sent.state = None
        sent.set_all(sent.stamps)
        return
    # The inner adapter replaced the headers. Keep the caller's own values of the gateway's headers.
    is_ours = sent.decision.gateway.names.owns
    by_name = {key: pair for key, pair in stored_in(headers).items() if not is_ours(key)}
    callers = {key: pair for key, pair in stored_in(request.headers).items() if is_ours(key)}
    headers = SentHeaders.of({**by_name, **callers}, outgoing.url or "")
    vars(request).update(_changed(outgoing, sent.state), headers=headers)


def _changed(request: requests.PreparedRequest, state: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of *request* that differ from *state*. The caller may change others."""
    now = vars(request)
    return {name: now[name] for name in now if now[name] is not state.get(name)}
