"""``HeaderNames``: the names of the headers that a gateway reads."""

from __future__ import annotations

import itertools
from typing import Any

from cagent_session.headers import (
    FORWARD_HEADER,
    PREFIX,
    PURPOSES,
    SESSION_ID_HEADER,
    as_text,
    require_header_name,
)
from cagent_session.immutable import Immutable

_CARRIED = {  # attributes of Attribution
    "session_header": "session_id",
    "parent_header": "parent_id",
    "root_header": "root_id",
}


class HeaderNames(Immutable):
    """The names of the headers that a gateway reads: see the parameters of :class:`Gateway`.

    A key is a name in lower case.
    """

    given: dict[str, Any]  # the names by their parameters
    session_key: str
    marker_key: str | None
    stamped: frozenset[str]  # the keys of all headers that the library sets
    are_usual: bool  # whether a request without a name that begins with X-Cagent- has none of them
    keys: frozenset[str]
    id_headers: tuple[tuple[str, str, str], ...]  # keys, names, and what they carry
    id_keys: frozenset[str]

    def __init__(
        self,
        session_header: str = SESSION_ID_HEADER,
        marker: str | None = FORWARD_HEADER,
        root_header: str | None = None,
        parent_header: str | None = None,
    ) -> None:
        given: dict[str, Any] = {
            "session_header": session_header,
            "marker": marker,
            "root_header": root_header,
            "parent_header": parent_header,
        }
        for parameter, name in given.items():
            if name is not None or parameter == "session_header":
                require_header_name(parameter, name)
        keys = {parameter: name.lower() for parameter, name in given.items() if name is not None}
        for first, second in itertools.combinations(keys, 2):
            if keys[first] == keys[second]:
                raise ValueError(f"{first} and {second} must be different names")
        id_headers = [(keys[of], given[of], _CARRIED[of]) for of in _CARRIED if of in keys]
        id_keys = frozenset(key for key, *_ in id_headers)
        vars(self).update(
            given=given,
            session_key=keys["session_header"],
            marker_key=keys.get("marker"),
            stamped=id_keys.union(map(str.lower, PURPOSES.values())),
            are_usual="marker" in keys and all(key.startswith(PREFIX) for key in keys.values()),
            keys=frozenset(keys.values()),
            id_headers=tuple(id_headers),
            id_keys=id_keys,
        )

    def owns(self, name: str | bytes) -> bool:
        """Return whether *name* is one of these names, or that of an ``X-Cagent-*`` header."""
        key = as_text(name).lower()
        return key.startswith(PREFIX) or key in self.keys

    def __repr__(self) -> str:
        usual = {"session_header": SESSION_ID_HEADER, "marker": FORWARD_HEADER}
        unusual = {of: name for of, name in self.given.items() if name != usual.get(of)}
        return "".join(f", {of}={name!r}" for of, name in unusual.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeaderNames) and self.given == other.given

    def __hash__(self) -> int:
        return hash(self.session_key)
