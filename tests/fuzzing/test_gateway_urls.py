"""Tests of gateway URLs: all functions accept the same URLs, and no message shows a secret."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hostile import ANY_URLS, GRAMMAR_URLS, NO_TEXT, ODD_IN_ONE_PART, PLAIN_URLS, SECRET, refusal
from hypothesis import example, given

from cagent_session import (
    InvalidGatewayURL,
    MissingSessionId,
    SessionIdAdapter,
    async_session_id_hook,
    mount,
    session_factory,
    session_id_hook,
)


def mount_and_check(gateway: Any) -> None:
    """Call ``mount``. If it fails, the session must be unchanged."""
    session = requests.Session()
    before = {
        name: dict(value) if name == "adapters" else value for name, value in vars(session).items()
    }
    try:
        mount(session, gateway)
    except InvalidGatewayURL:
        assert dict(vars(session)) == before, "adapters are equal only where they are the same"
        raise


TAKE_A_GATEWAY: tuple[Callable[[Any], object], ...] = (
    SessionIdAdapter,
    session_id_hook,
    async_session_id_hook,
    mount_and_check,
    lambda gateway: session_factory(gateway=gateway),
)


def refusals(gateway: Any) -> set[str | None]:
    """Pass *gateway* to all functions that take one. Return the messages of their errors.

    ``None`` stands for success. If all functions do the same, the set has one element.
    """
    return {refusal(InvalidGatewayURL, functools.partial(take, gateway)) for take in TAKE_A_GATEWAY}


@given(ANY_URLS | NO_TEXT)
@example(f"https://user:{SECRET}@gw.example")
@example("https://gw.example:65536")
def test_all_functions_accept_or_refuse_the_same_gateway_urls(gateway: Any) -> None:
    (message,) = refusals(gateway)
    if message is not None:
        assert SECRET not in message
        return
    parts = urlsplit(gateway)
    assert parts.scheme in ("http", "https")
    assert parts.hostname
    assert not re.search(r"^\.|\.\.", parts.hostname), "no resolver can look this name up"
    assert parts.port is None or 1 <= parts.port <= 65535
    assert "@" not in parts.netloc
    assert not set(gateway) & set("#\\ \t\r\n\0")


@given(PLAIN_URLS)
def test_a_well_formed_gateway_url_is_accepted(gateway: str) -> None:
    assert refusals(gateway) == {None}


@given(GRAMMAR_URLS | ODD_IN_ONE_PART)
def test_a_missing_session_is_reported_without_secrets(url: str) -> None:
    request = requests.Request("POST", "http://gw.example", {"X-Cagent-Forward": "x"}).prepare()
    request.url = url
    with pytest.raises(MissingSessionId) as missing:
        SessionIdAdapter(missing="raise").send(request)
    assert SECRET not in str(missing.value)
    assert missing.value.__context__ is None
