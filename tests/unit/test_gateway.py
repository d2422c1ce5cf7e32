"""Which requests are bound for a gateway, which URLs are a gateway's, and what the rule says."""

from __future__ import annotations

import _thread
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
from requests.structures import CaseInsensitiveDict

from cagent_session import (
    Gateway,
    InvalidGatewayURL,
    MissingSessionId,
    MissingSessionIdWarning,
    gateway_headers,
    session_scope,
)
from cagent_session.gateway import BOUND
from cagent_session.headers import require_sendable
from cagent_session.origins import left_origin, origin_of

FORWARD = "https://api.openai.com/v1"
LEFT = "left the origin by a redirect"


def request_to(url: str, **headers: Any) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return SimpleNamespace(method="POST", url=url, headers=CaseInsensitiveDict(names))


def is_bound(gateway: Gateway, request: Any) -> bool:
    reason, _ = gateway.decide(request.url, request.headers.get("X-Cagent-Forward"), None)
    return reason in BOUND


@pytest.mark.parametrize(
    ("marker", "bound"),
    [
        *[
            (FORWARD, True),
            (FORWARD.encode(), True),
            ("x", True),
            ("", False),
            (b"", False),
            (" ", False),
        ],
        *[
            (b"\t", False),
            (7, False),
            ([FORWARD], False),
        ],  # http.client would send these, set by hand
    ],
)
def test_a_marker_of_text_that_is_not_blank_makes_a_request_gateway_bound(
    marker: Any, bound: bool
) -> None:
    assert is_bound(Gateway(), request_to("https://gw.example/", X_Cagent_Forward=marker)) is bound


def test_a_request_without_marker_is_not_gateway_bound() -> None:
    assert not is_bound(Gateway("https://gw.example"), request_to("https://gw.example/"))


@pytest.mark.parametrize(
    "url",
    [
        "https://gw.example/v1",
        "https://gw.example",
        "https://gw.example?q=1",
        "https://gw.example:443/v1",
        "HTTPS://GW.Example/v1",
        "https://gw.example./v1",
        "https://gw.example.:443/v1",
        "https://user:password@gw.example/v1",
        "https://other.example@gw.example/v1",
        "https://us%65r:p%40ss@gw.example/v1",
    ],
)
def test_other_spellings_of_the_gateways_origin_are_the_gateways(url: str) -> None:
    for gateway in ("https://gw.example", "https://GW.example:443/v1/", "https://gw.example./"):
        assert is_bound(Gateway(gateway), request_to(url, X_Cagent_Forward=FORWARD))


@pytest.mark.parametrize(
    "url",
    [
        "http://gw.example/",
        "https://gw.example:8443/",
        "https://gw.example:0/",
        "https://gw.example.evil.com/",
        "https://gw.example@evil.com/",
        "https://gw.example:443@evil.com/",
        "https://gw.example:x@evil.com/",
        "https://gw.example\\@evil.com/",
        "https://evil.com\\@gw.example/",
        "https://evil.com#@gw.example/",
        "https://evil.com?@gw.example/",
        "https://gw.example\t.evil.com/",
        "https://gw.example .evil.com/",
        " https://gw.example/",
        "https://gw%2eexample/",
        "https://[::1]/",
        "https:gw.example/",
        "//gw.example/",
        "gw.example",
        "ftp://gw.example/",
        "",
    ],
)
def test_urls_that_only_look_like_the_gateways_are_not(url: str) -> None:
    assert not is_bound(Gateway("https://gw.example"), request_to(url, X_Cagent_Forward=FORWARD))


def test_on_a_gateways_host_another_port_is_not_the_gateways() -> None:
    gateway = Gateway("https://gw.example:8443")
    assert is_bound(gateway, request_to("https://gw.example:8443/v1", X_Cagent_Forward=FORWARD))
    assert not is_bound(gateway, request_to("https://gw.example/v1", X_Cagent_Forward=FORWARD))


@pytest.mark.parametrize(
    "gateway", ["https://bücher.example", "https://BÜCHER.example", "https://xn--bcher-kva.example"]
)
@pytest.mark.parametrize(
    "url",
    ["https://xn--bcher-kva.example/v1", "https://bücher.example/v1", "https://Bücher.example"],
)
def test_international_hosts_are_compared_in_idna(gateway: str, url: str) -> None:
    assert is_bound(Gateway(gateway), request_to(url, X_Cagent_Forward=FORWARD))


@pytest.mark.parametrize(
    ("gateway", "url"),
    [("http://[::1]:8080", "http://[::1]:8080/v1"), ("http://h_1", "http://h_1/")],
)
def test_addresses_and_underscores_are_hosts_too(gateway: str, url: str) -> None:
    assert is_bound(Gateway(gateway), request_to(url, X_Cagent_Forward=FORWARD))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (None, "must be a str, got NoneType"),
        (b"https://gw.example", "must be a str, got bytes"),
        ("", "absolute"),
        ("gw.example", "absolute"),
        ("/v1", "absolute"),
        ("//gw.example", "absolute"),
        ("https:gw.example", "absolute"),
        ("ftp://gw.example", "absolute"),
        ("https://", "host"),
        ("https:///v1", "host"),
        ("https://:443", "host"),
        ("https://gw..example", "host"),
        ("https://-gw.example", "host"),
        ("https://gw%2eexample", "host"),
        ("https://gw,example", "host"),
        ("https://[::1", "host"),
        ("https://" + "a" * 64, "host"),
        ("https://" + "a." * 127 + "a", "host"),
        ("https://gw.example:0", "port"),
        ("https://gw.example:65536", "port"),
        ("https://gw.example:x", "port"),
        ("https://gw.example:-1", "port"),
        ("https://user@gw.example", "user or a password"),
        ("https://:hunter2@gw.example", "user or a password"),
        ("https://user:hunter2@gw.example", "user or a password"),
        ("https://@gw.example", "user or a password"),
        ("https://gw.example#", "fragment"),
        (" https://gw.example", "white space"),
        ("https://gw.example\n", "white space"),
        ("https://gw.exa mple", "white space"),
        ("https://gw.example\\@evil.com", "backslash"),
    ],
)
def test_what_is_no_gateway_url_is_refused(url: Any, problem: str) -> None:
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
def test_any_text_is_a_gateway_url_or_refused(url: str) -> None:
    """And a URL that is one is bound for itself, with any path; nothing else raises."""
    try:
        gateway = Gateway(url)
    except InvalidGatewayURL:
        return
    rest = "" if "?" in url else "/v1"
    assert is_bound(gateway, request_to(url.rstrip("/") + rest, X_Cagent_Forward=FORWARD))


@given(
    st.text(), st.sampled_from(["https://gw.example", "https://", "http://gw.example@", "//", ""])
)
def test_no_request_url_raises(rest: str, start: str) -> None:
    """What is not plainly the gateway's is not the gateway's."""
    bound = is_bound(
        Gateway("https://gw.example"), request_to(start + rest, X_Cagent_Forward=FORWARD)
    )
    if bound:
        assert re.match(
            r"https://([^/?#\\]*@)?gw\.example\.?(:443|:)?([/?#]|$)", start + rest, re.IGNORECASE
        )


@given(st.text())
def test_the_origin_is_what_the_standard_library_reads(rest: str) -> None:
    """Two parsers agree on every origin: otherwise what is checked here is not what requests connects to."""
    url = f"http://{rest}"
    origin = origin_of(url)
    if origin is not None and url.isascii():
        split = urlsplit(url)
        host = origin[1].strip("[]")
        assert (host, origin[2]) == (
            (split.hostname or "").removesuffix("."),
            80 if split.port is None else split.port,
        )


@pytest.mark.parametrize(
    ("old", "new", "leaves"),
    [
        ("http://gw.example/a", "http://gw.example:80/b", False),
        ("http://gw.example/a", "https://gw.example/b", False),
        ("https://gw.example/a", "http://gw.example/b", True),
        ("http://gw.example/a", "http://gw.example:81/b", True),
        ("http://gw.example:81/a", "https://gw.example/b", True),
        ("http://gw.example/a", "http://www.gw.example/b", True),
        ("http://gw.example/a", "http://gw.example:port/b", True),
        ("http://gw.example/a", "http://[::1/b", True),
    ],
)
def test_a_redirect_leaves_the_origin_where_requests_drops_authorization(
    old: str, new: str, leaves: bool
) -> None:
    assert left_origin(old, new) is leaves


@pytest.mark.parametrize(
    ("url", "forward", "callers", "left", "expected"),
    [
        ("https://gw.example/", FORWARD, None, False, ("stamped", "sess-1", False)),
        ("https://gw.example/", FORWARD, "callers", False, ("stamped", "sess-1", False)),
        ("https://gw.example/", None, "callers", False, ("no marker", None, True)),
        ("https://other.example/", FORWARD, "callers", False, ("another origin", None, True)),
        ("https://other.example/", None, None, False, ("another origin", None, True)),
        ("https://gw.example/", FORWARD, "callers", True, (LEFT, None, True)),
    ],
)
def test_the_rule_with_a_known_gateway_in_a_session(
    url: str, forward: str | None, callers: str | None, left: bool, expected: Any
) -> None:
    with session_scope("sess-1"):
        gateway = Gateway("https://gw.example")
        reason, carried = gateway.decide(url, forward, callers, left=left)
    assert (reason, carried, gateway.removes_all(reason)) == expected


@pytest.mark.parametrize(
    ("session_id", "forward", "callers", "expected"),
    [
        ("sess-1", FORWARD, "callers", ("stamped", "sess-1", False)),
        ("sess-1", None, "callers", ("no marker", None, False)),
        (None, FORWARD, "callers", ("no session", "callers", False)),
        (None, FORWARD, b"callers", ("no session", b"callers", False)),
        (None, FORWARD, "", ("no session", None, False)),
        (None, FORWARD, None, ("no session", None, False)),
        (None, None, "callers", ("no marker", None, False)),
    ],
)
def test_the_rule_by_the_marker_alone(
    session_id: str | None, forward: str | None, callers: Any, expected: Any
) -> None:
    with session_scope(session_id):
        reason, carried = Gateway().decide("https://gw.example/", forward, callers)
    assert (reason, carried, Gateway().removes_all(reason)) == expected


def test_one_of_several_gateways_is_enough() -> None:
    gateway = Gateway("https://one.example", "http://two.example:8080/v1")
    for url in ("https://one.example/v1", "http://two.example:8080/"):
        assert is_bound(gateway, request_to(url, X_Cagent_Forward=FORWARD))
    assert not is_bound(gateway, request_to("http://two.example/", X_Cagent_Forward=FORWARD))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://gw.example:8443/v1", "https://gw.example:8443/v1"),
        ("http://user:hunt@2@gw.example/", "http://gw.example/"),
    ],
)
def test_a_missing_session_is_reported_with_the_remedy(url: str, told: str) -> None:
    with pytest.raises(MissingSessionId) as missing:
        Gateway(missing="raise").report(request_to(url), "no session", FORWARD, None)
    remedy = "make the call inside session_scope()"
    assert (
        str(missing.value)
        == f"POST {told} is bound for the models gateway but in no session: {remedy}"
    )


def test_a_missing_session_is_reported_without_secrets() -> None:
    """Neither user info nor the query, where Gemini's clients put their key."""
    request = request_to(
        "https://user:hunter2@gw.example/v1/chat?key=hunter2#hunter2", X_Cagent_Forward=FORWARD
    )
    with pytest.raises(
        MissingSessionId, match=r"^POST https://gw\.example/v1/chat is bound for"
    ) as missing:
        Gateway(missing="raise").report(request, "no session", FORWARD, None)
    assert "hunter2" not in str(missing.value)


@pytest.mark.parametrize(
    "url", ["https://user:hunter/2@gw.example/v1", "https://[::1/hunter2", "hunter2", ""]
)
def test_a_missing_session_is_reported_where_the_url_can_not_be_read(url: str) -> None:
    with pytest.raises(
        MissingSessionId, match=r"^POST a URL that can't be read is bound"
    ) as missing:
        Gateway(missing="raise").report(request_to(url), "no session", FORWARD, None)
    assert "hunter" not in str(missing.value)


CALL = """
try:
    answers.put(gateway.report(request, "no session", "marker", None))
except Exception as error:
    answers.put(error)
"""


def call_from_odd_places(**names: Any) -> list[Any]:
    """Call from code in no module, and from a transport's own thread, where there is nobody else to point at."""
    run: Any = exec
    code, answers = compile(CALL, "plugin.txt", "exec"), queue.SimpleQueue[Any]()
    run(code, {**names, "answers": answers})
    names = {**names, "answers": answers, "__name__": "httpx"}
    # Where warnings are caught by context, as Python 3.14 can do, the thread needs this context.
    start: Any = _thread.start_new_thread
    start(copy_context().run, (run, code, names))
    return [answers.get(timeout=30), answers.get(timeout=30)]


def test_the_warning_of_a_missing_session_points_at_code_of_any_sort() -> None:
    with pytest.warns(MissingSessionIdWarning) as warned:
        answers = call_from_odd_places(
            gateway=Gateway(missing="warn"), request=request_to("https://gw.example/")
        )
    assert answers == [None, None]
    assert [warning.filename for warning in warned] == ["plugin.txt", "plugin.txt"]


def test_gateway_headers_say_what_calls() -> None:
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


def test_gateway_headers_leave_out_what_is_empty() -> None:
    headers = gateway_headers(FORWARD, provider=None, model="", model_name="", install_id="")
    assert set(headers) == {
        "X-Cagent-Forward",
        "X-Cagent-Lang",
        "X-Cagent-OS",
        "X-Cagent-Arch",
        "X-Cagent-Runtime",
        "X-Cagent-Runtime-Version",
    }


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
        "",
        " ",
        None,
        b"https://api.openai.com",
        "api.openai.com",
        "ftp://api.openai.com",
        "https://",
        "https://a b",
        "https://user:hunter2@api.openai.com",
        "https://api.openai.com/v1\r\nX-Evil: 1",
        "https://api.openai.com/ü",
    ],
)
def test_gateway_headers_refuse_a_forward_that_is_no_base_url(forward: Any) -> None:
    with pytest.raises(ValueError, match=r"[Ff]orward") as refused:
        gateway_headers(forward)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("value", ["a\r\nb", "a\n", " a", "a ", "ü", "a\x00", 7, b"a"])
@pytest.mark.parametrize("name", ["provider", "model", "model_name", "install_id"])
def test_gateway_headers_refuse_what_is_no_header_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="must be visible ASCII characters"):
        gateway_headers(FORWARD, **{name: value})


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ("X-Cagent-Model", "must be a mapping of names to values, got str"),
        (
            {"X Cagent": "text"},
            "name must be letters, digits, hyphens and underscores, got 'X Cagent'",
        ),
    ],
)
def test_what_can_not_be_sent_is_named(headers: Any, problem: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{problem}$"):
        require_sendable(headers)
