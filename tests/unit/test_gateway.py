"""Tests of ``Gateway``, with its rule and its URLs, and of ``gateway_headers``."""

from __future__ import annotations

import _thread
import itertools
import platform
import queue
import re
import sys
import uuid
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cagent_session import (
    Gateway,
    InvalidGatewayURL,
    MissingSessionId,
    MissingSessionIdWarning,
    gateway_headers,
    session_scope,
)
from cagent_session.context import NOTHING
from cagent_session.decision import Decision
from cagent_session.headers import callers_by_name
from cagent_session.origins import left_origin, origin_of
from cagent_session.reporting import report

FORWARD = "https://api.openai.com/v1"
UNATTRIBUTED = Decision(Gateway(), "no session", True, NOTHING)


def request_to(url: str) -> Any:
    return SimpleNamespace(method="POST", url=url)


def is_bound(gateway: Gateway | str, url: str, marker: Any = FORWARD) -> bool:
    gateway = Gateway(gateway) if isinstance(gateway, str) else gateway
    return (
        gateway.decide(url, callers_by_name({"X-Cagent-Forward": marker}.items())).attribution
        is not None
    )


@pytest.mark.parametrize("marker", [FORWARD, FORWARD.encode(), "x"])
def test_a_request_with_a_marker_is_gateway_bound(marker: Any) -> None:
    assert is_bound(Gateway(), "https://gw.example/", marker)
    assert is_bound("https://gw.example", "https://gw.example/", marker)


@pytest.mark.parametrize("marker", [None, "", b"", " ", b"\t", 7, [FORWARD]])
def test_a_marker_that_is_blank_or_not_text_does_not_count(marker: Any) -> None:
    """A program can set the last two by hand. Python's http.client would send them."""
    assert not is_bound(Gateway(), "https://gw.example/", marker)
    assert not is_bound("https://gw.example", "https://gw.example/", marker)


SPELLINGS = """
https://gw.example/v1
https://gw.example
https://gw.example?q=1
https://gw.example:443/v1
HTTPS://GW.Example/v1
https://gw.example./v1
https://gw.example.:443/v1
https://user:password@gw.example/v1
https://other.example@gw.example/v1
https://us%65r:p%40ss@gw.example/v1
"""


@pytest.mark.parametrize("url", SPELLINGS.split())
def test_other_spellings_of_the_gateways_origin_are_recognized(url: str) -> None:
    for gateway in ("https://gw.example", "https://GW.example:443/v1/", "https://gw.example./"):
        assert is_bound(gateway, url)


OTHER_ORIGINS = """
http://gw.example/
https://gw.example:8443/
https://gw.example:0/
https://gw.example.evil.com/
https://gw.example@evil.com/
https://gw.example:443@evil.com/
https://gw.example:x@evil.com/
https://gw.example\\@evil.com/
https://evil.com\\@gw.example/
https://evil.com#@gw.example/
https://evil.com?@gw.example/
https://gw.example\t.evil.com/
https://gw.example .evil.com/
 https://gw.example/
https://gw%2eexample/
https://[::1]/
https:gw.example/
//gw.example/
gw.example
ftp://gw.example/
"""


@pytest.mark.parametrize("url", OTHER_ORIGINS.split("\n")[1:])
def test_urls_that_only_look_like_the_gateways_are_not_recognized(url: str) -> None:
    assert not is_bound("https://gw.example", url)


@pytest.mark.parametrize(
    ("gateway", "url"),
    [
        ("http://[::1]:8080", "http://[::1]:8080/v1"),
        ("http://h_1", "http://h_1/"),
        ("https://gw.example:8443", "https://gw.example:8443/v1"),
        *itertools.product(
            ("https://bücher.example", "https://BÜCHER.example", "https://xn--bcher-kva.example"),
            ("https://xn--bcher-kva.example/v1", "https://Bücher.example"),
        ),
    ],
)
def test_ports_addresses_underscores_and_idna_hosts_are_compared(gateway: str, url: str) -> None:
    several = Gateway("https://one.example", gateway)
    assert is_bound(gateway, url)
    assert is_bound(several, url)
    assert not is_bound(several, f"{urlsplit(url).scheme}://{urlsplit(gateway).hostname}:81/")


NOT_GATEWAYS = {
    "absolute": "|gw.example|/v1|//gw.example|https:gw.example|ftp://gw.example",
    "valid host": "https://|https:///v1|https://:443|https://gw..example|https://-gw.example"
    "|https://gw%2eexample|https://gw,example|https://[::1"
    f"|https://{'a' * 64}|https://{'a.' * 127}a",
    "a port from 1": "https://gw.example:0|https://gw.example:65536|https://gw.example:x"
    "|https://gw.example:-1",
    "user or a password": "https://user@gw.example|https://:hunter2@gw.example"
    "|https://user:hunter2@gw.example|https://@gw.example",
    "fragment": "https://gw.example#",
    "white space": " https://gw.example|https://gw.example\n|https://gw.exa mple",
    "backslash": "https://gw.example\\@evil.com",
}


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (None, "must be a str, got NoneType"),
        (b"https://gw.example", "must be a str, got bytes"),
        *((url, problem) for problem, urls in NOT_GATEWAYS.items() for url in urls.split("|")),
    ],
)
def test_other_urls_are_refused(url: Any, problem: str) -> None:
    with pytest.raises(InvalidGatewayURL, match=problem) as refused:
        Gateway(url)
    assert "hunter2" not in str(refused.value)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("missing", ["", "OMIT", None, True])
def test_missing_takes_three_values(missing: Any) -> None:
    with pytest.raises(ValueError, match='"omit", "warn" or "raise"'):
        Gateway(missing=missing)


@given(
    st.text()
    | st.builds("{}://{}{}".format, st.sampled_from(["http", "HTTPS", "ftp"]), st.text(), st.text())
)
def test_any_text_is_accepted_as_a_gateway_url_or_refused(url: str) -> None:
    """If the text is a gateway URL, a request to it with any path is bound for the gateway."""
    try:
        gateway = Gateway(url)
    except InvalidGatewayURL:
        return
    assert is_bound(gateway, url.rstrip("/") + ("" if "?" in url else "/v1"))


STARTS = ["https://gw.example", "https://", "http://gw.example@", "//", ""]


@given(st.text(), st.sampled_from(STARTS))
def test_any_request_url_can_be_checked_without_an_error(rest: str, start: str) -> None:
    """If a URL is not clearly the gateway's, it counts as another origin."""
    if is_bound("https://gw.example", start + rest):
        gateways = r"https://([^/?#\\]*@)?gw\.example\.?(:443|:)?([/?#]|$)"
        assert re.match(gateways, start + rest, re.IGNORECASE)


@given(st.text())
def test_origins_are_read_as_by_the_standard_library(rest: str) -> None:
    """With two different results, requests might connect to a host that was not checked."""
    origin, split = origin_of(f"http://{rest}"), None
    if origin is not None and rest.isascii():
        split = urlsplit(f"http://{rest}")
        host = (split.hostname or "").removesuffix(".")
        assert (origin[1].strip("[]"), origin[2]) == (
            host,
            80 if split.port is None else split.port,
        )


@pytest.mark.parametrize(
    ("old", "new", "leaves"),
    [
        ("http://gw.example/a", "http://gw.example:80/b", False),
        ("https://gw.example./a", "https://gw.example/b", False),
        ("http://gw.example/a", "https://gw.example/b", False),
        ("https://gw.example/a", "http://gw.example/b", True),
        ("http://gw.example/a", "http://gw.example:81/b", True),
        ("http://gw.example:81/a", "https://gw.example/b", True),
        ("http://gw.example/a", "http://www.gw.example/b", True),
        ("http://gw.example/a", "http://gw.example:port/b", True),
        ("http://gw.example/a", "http://[::1/b", True),
    ],
)
def test_a_redirect_leaves_the_origin_if_requests_would_drop_authorization(
    old: str, new: str, leaves: bool
) -> None:
    assert left_origin(old, new) is leaves


GATEWAY, OTHER = "https://gw.example/", "https://other.example/"


@pytest.mark.parametrize(
    ("gateway", "session_id", "url", "forward", "callers_id", "expected"),
    [
        (GATEWAY, "sess-1", GATEWAY, FORWARD, None, ("stamped", "sess-1", True)),
        (GATEWAY, "sess-1", GATEWAY, FORWARD, "callers", ("stamped", "sess-1", True)),
        (GATEWAY, "sess-1", GATEWAY, None, "callers", ("no marker", None, False)),
        (GATEWAY, "sess-1", OTHER, FORWARD, "callers", ("another origin", None, False)),
        (GATEWAY, "sess-1", OTHER, None, None, ("another origin", None, False)),
        (None, "sess-1", GATEWAY, FORWARD, "callers", ("stamped", "sess-1", True)),
        (None, "sess-1", GATEWAY, None, "callers", ("no marker", None, True)),
        (None, None, GATEWAY, FORWARD, "callers", ("no session", "callers", True)),
        (None, None, GATEWAY, FORWARD, b"callers", ("no session", b"callers", True)),
        (None, None, GATEWAY, FORWARD, "", ("no session", None, True)),
        (None, None, GATEWAY, FORWARD, None, ("no session", None, True)),
        (None, None, GATEWAY, None, "callers", ("no marker", None, True)),
    ],
)
def test_the_rule(
    gateway: str | None, session_id: Any, url: str, forward: Any, callers_id: Any, expected: Any
) -> None:
    """*expected* is the reason, the session ID, and whether other X-Cagent-* headers are sent."""
    headers = {"X-Cagent-Forward": forward, "X-Cagent-Session-Id": callers_id, "X-Cagent-OS": "?"}
    by_name = callers_by_name(headers.items())
    made = Gateway.of(gateway)
    with session_scope(session_id):
        decision = made.decide(url, by_name)
        left = made.decide(url, by_name, has_left=True)
    sent, _ = decision.applied_to(by_name)
    assert (decision.reason, decision.session_id, "x-cagent-os" in sent) == expected
    assert sent.get("x-cagent-session-id", (None, None))[1] == decision.session_id
    assert (left.reason, left.session_id) == ("left the origin by a redirect", None)
    assert left.applied_to(by_name) == ({}, {})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://gw.example:8443/v1", "https://gw.example:8443/v1"),
        ("http://user:hunt@2@gw.example/", "http://gw.example/"),
        ("https://user:hunter2@gw.example/v1?key=hunter2#hunter2", "https://gw.example/v1"),
        *(
            (url, "a URL that can't be read")
            for url in ("https://user:hunt/2@gw.example/", "https://[::1/hunter2", "hunter2", "")
        ),
    ],
)
def test_a_missing_session_is_reported_with_the_remedy_and_without_secrets(
    url: str, shown: str
) -> None:
    """The message shows no user info and no query. Gemini's clients put their key in the query."""
    with pytest.raises(MissingSessionId) as missing:
        report("raise", request_to(url), UNATTRIBUTED)
    problem = f"POST {shown} is bound for the models gateway but in no session"
    assert str(missing.value) == f"{problem}: make the call inside session_scope()"


CALL = """
try:
    answers.put(report("warn", request, decision))
except Exception as error:
    answers.put(error)
"""


def call_from_unusual_code(**names: Any) -> list[Any]:
    """Call from code without a module, and from a thread that only runs a transport's code."""
    run: Any = exec
    code, answers = compile(CALL, "plugin.txt", "exec"), queue.SimpleQueue[Any]()
    run(code, {**names, "answers": answers})
    names = {**names, "answers": answers, "__name__": "httpx"}
    # Python 3.14 can catch warnings by context. The thread then needs this one.
    start: Any = _thread.start_new_thread
    start(copy_context().run, (run, code, names))
    return [answers.get(timeout=30), answers.get(timeout=30)]


def test_the_warning_of_a_missing_session_can_point_at_any_code() -> None:
    with pytest.warns(MissingSessionIdWarning) as warned:
        answers = call_from_unusual_code(
            report=report, request=request_to("https://gw.example/"), decision=UNATTRIBUTED
        )
    assert answers == [None, None]
    assert [warning.filename for warning in warned] == ["plugin.txt", "plugin.txt"]


def test_gateway_headers_describe_the_caller() -> None:
    headers = gateway_headers(
        FORWARD,
        provider="openai",
        model="gpt-4o",
        model_name="my fast model",
        install_id=uuid.UUID(int=7),
        generating_title=True,
        compacting=True,
    )
    assert headers.pop("X-Cagent-OS") in {"linux", "darwin", "windows"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", headers.pop("X-Cagent-Runtime-Version"))
    assert headers.pop("X-Cagent-Arch")
    assert headers == {
        "X-Cagent-Forward": FORWARD,
        "X-Cagent-Lang": "python",
        "X-Cagent-Runtime": "cagent-session",
        "X-Cagent-Provider": "openai",
        "X-Cagent-Model": "gpt-4o",
        "X-Cagent-Model-Name": "my fast model",
        "X-Cagent-Id": "00000000-0000-0000-0000-000000000007",
        "X-Cagent-GeneratingTitle": "1",
        "X-Cagent-Compacting": "1",
    }


def test_gateway_headers_leave_out_empty_values() -> None:
    headers = gateway_headers(FORWARD, provider=None, model="", model_name="", install_id="")
    always = {"Forward", "Lang", "OS", "Arch", "Runtime", "Runtime-Version"}
    assert {name.removeprefix("X-Cagent-") for name in headers} == always


@pytest.mark.parametrize(
    ("sys_platform", "machine", "expected"),
    [
        ("linux", "x86_64", ("linux", "amd64")),
        ("linux", "aarch64", ("linux", "arm64")),
        ("darwin", "arm64", ("darwin", "arm64")),
        ("win32", "AMD64", ("windows", "amd64")),
        ("linux", "i686", ("linux", "386")),
        ("darwin", "i386", ("darwin", "386")),
        ("win32", "x86", ("windows", "386")),
        ("linux", "armv7l", ("linux", "arm")),
        ("linux", "riscv64", ("linux", "riscv64")),
    ],
)
def test_gateway_headers_use_gos_names(
    monkeypatch: pytest.MonkeyPatch, sys_platform: str, machine: str, expected: tuple[str, str]
) -> None:
    monkeypatch.setattr(sys, "platform", sys_platform)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    headers = gateway_headers(FORWARD)
    assert (headers["X-Cagent-OS"], headers["X-Cagent-Arch"]) == expected


@pytest.mark.parametrize(
    "forward",
    [
        *("", " ", None, b"https://api.openai.com", "api.openai.com", "ftp://api.openai.com"),
        *("https://", "https://a b", "https://user:hunter2@api.openai.com"),
        *("https://api.openai.com/v1\r\nX-Evil: 1", "https://api.openai.com/ü"),
    ],
)
def test_gateway_headers_refuse_a_forward_that_is_not_a_base_url(forward: Any) -> None:
    with pytest.raises(ValueError, match=r"[Ff]orward") as refused:
        gateway_headers(forward)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("value", ["a\r\nb", "a\n", " a", "a ", "ü", "a\x00", 7, b"a"])
@pytest.mark.parametrize("name", ["provider", "model", "model_name", "install_id"])
def test_gateway_headers_refuse_other_values(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="must be visible ASCII characters"):
        gateway_headers(FORWARD, **{name: value})
