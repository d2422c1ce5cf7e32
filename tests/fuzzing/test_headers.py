"""Tests of headers: a value is sent unchanged or refused at once, and no message repeats it."""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import h11
import pytest
import requests
from hostile import (
    ANY_TEXT,
    ANY_URLS,
    ANY_VALUES,
    FEWER,
    NAMES,
    NO_TEXT,
    ODD_IN_ONE_PART,
    OTHER_NAMES,
    PLAIN_URLS,
    SECRET,
    VALUES,
    Label,
    mutated,
    refusal,
)
from hypothesis import given
from hypothesis import strategies as st

from cagent_session import (
    FORWARD_HEADER,
    SessionIdAdapter,
    gateway_headers,
    session_factory,
    session_id_hook,
)

SECRETS = mutated(st.sampled_from([SECRET, f"a {SECRET} b"]))
HEADER_VALUES = SECRETS | SECRETS.map(Label) | mutated(VALUES) | ANY_VALUES | NO_TEXT | st.uuids()
SETTERS: list[Callable[..., object]] = [SessionIdAdapter, session_id_hook, session_factory]


def read_by_a_strict_server(headers: dict[str, str]) -> dict[str, str]:
    """Write *headers* as requests does, and return what h11, a strict server, reads.

    h11 drops white space at the ends of a value.
    """
    prepared: Any = requests.Request("GET", "http://gw.example", headers=headers).prepare().headers
    lines = [
        b"%b: %b\r\n" % (name.encode(), value.encode("latin-1")) for name, value in prepared.items()
    ]
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"GET / HTTP/1.1\r\nHost: gw.example\r\n%b\r\n" % b"".join(lines))
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert len(request.headers) == len(lines) + 1
    read = {name.decode(): value.decode() for name, value in request.headers}
    assert all(re.fullmatch("[!-~]([ -~]*[!-~])?", value) for value in read.values())
    return {name: read[name.lower()] for name in headers}


@given(
    PLAIN_URLS | PLAIN_URLS | ODD_IN_ONE_PART | ANY_URLS | NO_TEXT,
    st.dictionaries(
        st.sampled_from(["provider", "model", "model_name", "install_id"]),
        HEADER_VALUES,
        max_size=1,
    ),
    st.booleans(),
)
def test_gateway_headers_arrive_unchanged_or_are_refused(
    forward: Any, values: dict[str, Any], flag: bool
) -> None:
    make = functools.partial(
        gateway_headers, forward, **values, generating_title=flag, compacting=flag
    )
    message = refusal(ValueError, make)
    if message is not None:
        assert SECRET not in message
        return
    headers = make()
    assert read_by_a_strict_server(headers) == headers
    assert headers[FORWARD_HEADER] == forward
    assert "@" not in urlsplit(forward).netloc
    assert set(headers.values()) >= {
        str(v) if isinstance(v, uuid.UUID) else v for v in values.values() if v
    }


@given(
    OTHER_NAMES
    | OTHER_NAMES
    | NAMES
    | NAMES.map(lambda name: name.encode("utf-8", "replace"))
    | st.integers()
    | st.none(),
    HEADER_VALUES,
)
def test_a_factorys_headers_arrive_unchanged_or_are_refused(name: Any, value: Any) -> None:
    make = functools.partial(session_factory, headers={name: value})
    message = refusal(ValueError, make)
    if message is not None:
        assert SECRET not in message
        return
    with make()() as session:
        assert session.headers[name] == value
    assert read_by_a_strict_server({name: value}) == {name: value}


@FEWER
@given(
    st.sampled_from(["omit", "warn", "raise", "omit ", "Raise", b"omit", Label("omit")])
    | ANY_TEXT
    | NO_TEXT
)
@pytest.mark.parametrize("take", SETTERS)
def test_missing_accepts_only_its_three_values(take: Callable[..., object], missing: Any) -> None:
    if isinstance(missing, str) and "".join(missing) in ("omit", "warn", "raise"):
        take(missing=missing)
        return
    with pytest.raises(ValueError, match=r'^missing must be "omit", "warn" or "raise"'):
        take(missing=missing)
