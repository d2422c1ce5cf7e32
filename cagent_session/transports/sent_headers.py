"""``SentHeaders``: request headers that remember where they were sent, and the caller's values."""

from __future__ import annotations

from typing import Any, cast

import requests
from requests.structures import CaseInsensitiveDict

from cagent_session.headers import (
    FORWARD_HEADER,
    PREFIX,
    SESSION_ID_HEADER,
    SentMarker,
    StampedId,
    as_text,
    cagent_names,
    callers_value,
    remove_cagent_headers,
)
from cagent_session.origins import left_origin

ByName = dict[Any, tuple[Any, Any]]  # names and values by the names in lower case

# CaseInsensitiveDict keeps its values in one private attribute, which is such a dict. Using it is
# several times faster than the public methods. If a release of requests keeps them in another way,
# the public methods are used.
_STORE = "_store"
_HAS_STORE = getattr(CaseInsensitiveDict(A="b"), "__dict__", {}) == {_STORE: {"a": ("A", "b")}}
_FORWARD, _SESSION_ID = FORWARD_HEADER.lower(), SESSION_ID_HEADER.lower()


class SentHeaders(CaseInsensitiveDict[Any]):
    """Headers that remember the URL they were sent to, and whether they are a copy.

    While a request is sent, *callers* are the headers of the caller's request. What an inner
    adapter writes here is written there, too. *stamp* is the session ID that this library has set
    here. *state* has the attributes of the request before the inner adapter could change them.
    """

    url: str = ""
    is_copy = False
    callers: SentHeaders | None = None
    stamp: StampedId | None = None
    state: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        by_name: ByName,
        url: str,
        callers: SentHeaders | None = None,
        stamp: StampedId | None = None,
    ) -> SentHeaders:
        """Return headers with these names and values, and with these attributes."""
        headers = cls.__new__(cls)
        headers.replace_all(by_name)
        headers.url, headers.callers, headers.stamp = url, callers, stamp
        return headers

    def replace_all(self, by_name: ByName) -> None:
        """Replace all names and values by those of *by_name*."""
        headers: Any = self
        if _HAS_STORE:
            headers._store = by_name  # noqa: SLF001 - see _STORE
        else:
            headers.__init__(by_name.values())

    def copy(self) -> SentHeaders:
        """Return a copy that knows it is one. requests copies headers to follow a redirect."""
        by_name = {**by_lower_name(self)}
        name, forward = by_name.get(_FORWARD, (FORWARD_HEADER, None))
        if isinstance(forward, str):
            marker = SentMarker(forward)
            marker.url = forward.url if isinstance(forward, SentMarker) else self.url
            by_name[_FORWARD] = (name, marker)
        copied = self.of(by_name, self.url)
        copied.is_copy = True
        return copied

    __copy__ = copy

    def moved_to(self, url: str, by_name: ByName) -> tuple[bool, ByName]:
        """Return whether a redirect to *url* leaves the origin, if these headers are a copy.

        If it does, nothing is changed here, because another thread may send the same request.

        :param by_name: the headers that the caller set.
        :returns: also *by_name*, with a plain :class:`str` in place of a :class:`SentMarker`.
        """
        name, forward = by_name.get(_FORWARD, (None, None))
        has_left = self.is_copy and left_origin(self.url, url)
        if isinstance(forward, SentMarker):
            has_left = has_left or left_origin(forward.url, url)
            by_name = {**by_name, _FORWARD: (name, str(forward))}
        if not has_left:
            self.is_copy = False
            if isinstance(forward, SentMarker):
                self[name] = str(forward)
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
        if as_text(name).lower() == _SESSION_ID:
            self.stamp = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as plain headers with the caller's values. They load without this library."""
        callers = {name: callers_value(value) for name, value in self.items()}
        return CaseInsensitiveDict, ({n: v for n, v in callers.items() if v is not None},)


def by_lower_name(headers: Any) -> ByName:
    """Return the names and values of *headers*. The keys are the names in lower case."""
    if _HAS_STORE and (type(headers) is SentHeaders or type(headers) is CaseInsensitiveDict):
        stored: Any = headers
        return cast("ByName", stored._store)  # noqa: SLF001 - see _STORE
    by_name = {}
    for name in headers or ():
        text = as_text(name)
        key = text if text.isascii() and text.lower().startswith(PREFIX) else name
        by_name[key.lower()] = (key, headers[name])
    return by_name


def remember(request: requests.PreparedRequest) -> SentHeaders:
    """Turn the headers of *request* into :class:`SentHeaders`, and return them."""
    headers: Any = request.headers
    if type(headers) is CaseInsensitiveDict:
        sent: Any = headers
        sent.__class__ = SentHeaders  # so that they remain the same object
        sent.replace_all(dict(by_lower_name(sent)))  # an OrderedDict copies ten times slower
    else:
        request.headers = SentHeaders(headers)
    return cast("SentHeaders", request.headers)


def without_ours(by_name: ByName) -> ByName:
    """Return *by_name* without the ``X-Cagent-*`` headers."""
    return {name: by_name[name] for name in by_name if not as_text(name).startswith(PREFIX)}


def copy_of(request: requests.PreparedRequest, headers: SentHeaders) -> requests.PreparedRequest:
    """Return a shallow copy of *request* that has these *headers*."""
    headers.state = {**request.__dict__, "headers": headers}
    copied = type(request).__new__(type(request))
    copied.__dict__.update(headers.state)
    return copied


def hand_back(outgoing: requests.PreparedRequest, request: requests.PreparedRequest) -> None:
    """Copy to *request* what an inner adapter has changed in *outgoing*, which was sent.

    If *request* itself was sent, only remember the URL to which the inner adapter has sent it.
    """
    sent: Any = outgoing.headers
    if outgoing is request:
        if type(sent) is SentHeaders:
            sent.url = request.url or ""
        return
    if type(sent) is SentHeaders and sent.callers is not None:
        if outgoing.__dict__ != sent.state:
            vars(request).update(vars(outgoing), headers=request.headers)
            sent.url = sent.callers.url = request.url or ""
        sent.callers = sent.state = None
        if sent.stamp is not None:
            CaseInsensitiveDict.__setitem__(sent, SESSION_ID_HEADER, sent.stamp)
        return
    # The inner adapter replaced the headers. Keep the caller's own X-Cagent-* headers.
    ours = {name: request.headers[name] for name in cagent_names(request.headers)}
    headers = SentHeaders(sent)
    remove_cagent_headers(headers)
    headers.update(ours)
    headers.url = outgoing.url or ""
    vars(request).update(vars(outgoing), headers=headers)
