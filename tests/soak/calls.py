"""What is one call? Whose it says it is, what is to happen to it, and what must arrive of it.

It travels in the request's own query, so that neither process needs the other's memory, and the check not the header.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal
from urllib.parse import quote, unquote

from cagent_session import FORWARD_HEADER, SESSION_ID_HEADER, gateway_headers

IDENTITY = gateway_headers("https://api.openai.com/v1", provider="openai", model="gpt-4o")
ECHO_HEADER = "X-Soak-Call"
ONCE = "once-"  # how the ID of a session begins that is used only once

# What a route is made of: the gateway, another host on another port, and the gateway's port under another name.
GATEWAY, FOREIGN, ALIAS = "g", "f", "a"


@dataclass(frozen=True)
class Fault:
    """How a host answers: which status, how much of it, how slowly, and what becomes of the connection."""

    status: int | None = None  # instead of the answer
    head: float = 1  # how much of the head goes out
    body: float = 1  # how much of the body goes out
    pieces: int = 1
    ends: Literal["stays", "closes", "resets", "closes when idle"] = "stays"
    early: Literal["no", "reads on", "leaves"] = "no"  # answers before it has the request's body


FAULTS = {
    "none": Fault(),
    "503": Fault(status=503),
    "slow": Fault(pieces=5),
    "reset before the head": Fault(head=0, body=0, ends="resets"),
    "reset in the head": Fault(head=0.5, body=0, ends="resets"),
    "reset after the head": Fault(body=0, pieces=2, ends="resets"),
    "reset in the body": Fault(body=0.5, pieces=2, ends="resets"),
    "truncated": Fault(body=0.5, ends="closes"),
    "closed while idle": Fault(ends="closes when idle"),
    "early": Fault(status=413, ends="closes", early="reads on"),
    "early, unread": Fault(status=413, ends="closes", early="leaves"),
}
REDIRECTS = (301, 302, 303, 307, 308)
READINGS = ("whole", "pieces", "half")


@dataclass(frozen=True)
class Call:
    """One call, planned by the thread that makes it."""

    number: str
    kind: str  # of client
    way: str  # in which the session comes to it
    session_id: str | None
    marked: bool
    own_id: str | None = None  # a session ID that the caller set by hand
    route: str = GATEWAY  # host by host, of which the last one answers
    redirect: int = 307
    fault: str = "none"
    fault_at: int = 0  # the hop
    fault_times: int = 1
    most: int = 1  # as often as the client may send each hop
    reading: str = "whole"
    method: str = "POST"
    chunked: bool = False  # the answer

    @property
    def query(self) -> str:
        return quote(json.dumps(asdict(self)))

    @classmethod
    def from_query(cls, query: str) -> Call:
        return cls(**json.loads(unquote(query)))

    @property
    def headers(self) -> dict[str, str]:
        return (IDENTITY if self.marked else {}) | (
            {SESSION_ID_HEADER: self.own_id} if self.own_id else {}
        )

    @property
    def body(self) -> bytes:
        if self.method == "GET":
            return b""
        return b"?" * (200_000 if FAULTS[self.fault].early != "no" else 100)

    def is_refused_by(self, missing: str) -> bool:
        """Tell whether a client must refuse it that was mounted with *missing*."""
        bound = self.marked and self.route[0] == GATEWAY
        return missing == "raise" and bound and self.session_id is None and self.own_id is None

    def check(self, hop: int, headers: list[tuple[str, str]]) -> Finding | None:
        """Say what is wrong with the request that arrived at a hop with these headers, named in lower case."""
        stayed = set(self.route[: hop + 1]) == {self.route[0]}
        bound = self.marked and stayed and self.route[0] == GATEWAY
        expected = (self.session_id or self.own_id) if bound else None
        markers = [value for name, value in headers if name == FORWARD_HEADER.lower()]
        found = [value for name, value in headers if name == SESSION_ID_HEADER.lower()]
        others = [name for name, _ in headers if name.startswith("x-cagent-")]
        where = f"at {self.route[hop]!r}, hop {hop} of {self}"
        if found != ([] if expected is None else [expected]):
            return Finding(
                "wrong" if bound else "leaked", f"session {found} instead of {expected!r} {where}"
            )
        if others and not bound:
            return Finding("leaked", f"{others} {where}")
        if markers != ([IDENTITY[FORWARD_HEADER]] if bound else []):
            return Finding("wrong", f"markers {markers} {where}")
        return None


@dataclass(frozen=True)
class Finding:
    """What must not be: a wrong session, a leaked header, a lost call, what nothing accounts for, or a failed call."""

    what: Literal["wrong", "leaked", "lost", "unaccounted", "failed for no reason"]
    text: str


@dataclass
class Ended:
    """How a call ended, as its caller saw it."""

    number: str
    how: Literal["completed", "failed", "refused"]
    hops: int = 0  # that were followed, if it was completed
    error: str = (
        ""  # where no fault was to befall it; its connection may have been closed just then
    )


@dataclass
class Report:
    """What a thread tells the hosts now and then."""

    ended: list[Ended] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)
