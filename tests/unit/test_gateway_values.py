"""Tests of ``Gateway`` as a value: comparison, copies, the environment and the log."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest
import requests
import responses

from cagent_session import (
    Gateway,
    InvalidGatewayURL,
    SessionIdAdapter,
    gateway_headers,
    mount,
    session_scope,
)

URL = "https://api.docker.com/models?tier=pro"  # docker-agent's own test address
BY_NAME: Any = {"x-cagent-forward": ("X-Cagent-Forward", "https://api.openai.com/v1")}
VARIABLES = ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY")


@pytest.fixture(autouse=True)
def _no_gateway_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_it_may_have_no_url_or_several_and_urls_may_have_path_and_query() -> None:
    assert Gateway().urls == ()
    gateway = Gateway(URL, "http://two.example:8080")
    assert gateway.urls == (URL, "http://two.example:8080")
    with session_scope("sess-1"):
        assert gateway.decide("https://api.docker.com/v1/chat", BY_NAME).session_id == "sess-1"
        assert gateway.decide("https://docker.com/models?tier=pro", BY_NAME).session_id is None


NAMES: Any = {
    "session_header": "x-session-id",
    "marker": None,
    "root_header": "X-Cagent-Root-Session",
    "parent_header": "x-parent-session-id",
}


def test_it_can_have_other_headers() -> None:
    gateway = Gateway(URL, **NAMES)
    assert {name: getattr(gateway, name) for name in NAMES} == NAMES
    assert gateway == Gateway(URL, **NAMES) != Gateway(URL)
    assert hash(gateway) == hash(Gateway(URL, **NAMES))
    assert pickle.loads(pickle.dumps(gateway)) == copy.deepcopy(gateway) == gateway
    assert Gateway.of(gateway, "raise") == Gateway(URL, **NAMES, missing="raise")
    assert repr(Gateway(URL, session_header="x-session-id", marker=None)) == (
        "Gateway('https://api.docker.com/models', missing='omit', session_header='x-session-id', "
        "marker=None)"
    )


@pytest.mark.parametrize(
    ("names", "error", "problem"),
    [
        ({"session_header": None}, TypeError, "^session_header must be .* a header, got NoneType$"),
        ({"root_header": b"X-Root"}, TypeError, "^root_header must be .* a header, got bytes$"),
        ({"marker": ""}, ValueError, "^marker must be the name of a header .*, got ''$"),
        ({"parent_header": "a b"}, ValueError, "^parent_header must be .*, got 'a b'$"),
        ({"session_header": "X-Api-Key"}, ValueError, "must not be X-Api-Key"),
        ({"marker": "none"}, ValueError, "^marker must be None, without quotation marks"),
        ({"session_header": "Content-Length"}, ValueError, "must not be Content-Length, which has"),
        ({"marker": "authorization"}, ValueError, "^marker must not be authorization"),
        ({"root_header": "X-Cagent-Compacting"}, ValueError, "must not be X-Cagent-Compacting"),
        (
            {"marker": "X-CAGENT-Session-Id"},
            ValueError,
            "session_header and marker must be different",
        ),
        ({"marker": None}, ValueError, "marker=None .* give the URL$"),
    ],
)
def test_wrong_names_of_headers_are_refused(
    names: dict[str, Any], error: type[Exception], problem: str
) -> None:
    with pytest.raises(error, match=problem):
        Gateway(**names)
    if names != {"marker": None}:
        with pytest.raises(error, match=problem):
            Gateway.from_environment(**names)


def test_a_wrong_parameter_is_an_error_even_if_no_variable_is_set() -> None:
    wrong: Any = "ignore"
    with pytest.raises(ValueError, match=r"^missing must be"):
        Gateway.from_environment(missing=wrong)
    names: Any = {"sesion_header": "x-session-id"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'sesion_header'"):
        Gateway.from_environment(**names)


def test_headers_to_add_must_have_the_gateways_own_marker() -> None:
    names: Any = {"session_header": "x-session-id", "root_header": "X-Cagent-Root"}
    gateway = Gateway(URL, marker="My-Marker", **names)
    marked = gateway.with_marking({"my-marker": "1", "X-Cagent-Model": "gpt-4o"})
    sent, _ = marked.decide(URL, {}).applied_to({})
    assert sent == {"my-marker": ("my-marker", "1"), "x-cagent-model": ("X-Cagent-Model", "gpt-4o")}
    blank: Any = {"my-marker": ("My-Marker", " ")}
    assert marked.decide(URL, blank).applied_to(blank)[0] == sent
    for headers, problem in (
        ({"X-Cagent-Model": "gpt-4o"}, "headers must contain My-Marker"),
        (
            {"my-marker": "1", "X-Session-Id": "s"},
            "be My-Marker and X-Cagent-.* headers only, got X-Session-Id",
        ),
        ({"my-marker": "1", "my-marker-key": "s"}, "X-Cagent-.* headers only, got my-marker-key"),
        ({"my-marker": "1", "x-cagent-root": "s"}, "must not contain x-cagent-root: use session"),
    ):
        with pytest.raises(ValueError, match=problem):
            gateway.with_marking(headers)
    with pytest.raises(ValueError, match="only be added for a gateway that has a marker"):
        Gateway(URL, marker=None).with_marking({"X-Cagent-Model": "gpt-4o"})
    plain = Gateway(URL, marker=None)
    assert plain.with_marking(plain.route("openai").headers) == plain


def test_gateways_with_equal_values_are_equal() -> None:
    assert Gateway(URL) == Gateway(URL, missing="omit")
    assert hash(Gateway(URL)) == hash(Gateway(URL))
    different = {Gateway(), Gateway(URL), Gateway(URL, missing="warn"), Gateway(URL, "http://h")}
    assert len(different) == 4
    assert Gateway(URL) != URL


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda gateway: pickle.loads(pickle.dumps(gateway))]
)
def test_it_can_be_copied_and_pickled(duplicate: Any) -> None:
    gateway = duplicate(Gateway(URL, missing="raise"))
    assert gateway == Gateway(URL, missing="raise")
    with session_scope("sess-1"):
        assert gateway.decide("https://api.docker.com/", BY_NAME).session_id == "sess-1"


def test_it_never_changes() -> None:
    gateway = Gateway(URL)
    problem = "a Gateway never changes: make another one to set missing"
    with pytest.raises(AttributeError, match=problem):
        gateway.missing = "raise"
    with pytest.raises(AttributeError, match="urls can't be deleted"):
        del gateway.urls
    assert gateway == Gateway(URL)


def test_its_repr_shows_no_query() -> None:
    assert repr(Gateway("https://gw.example/models?key=hunter2", missing="warn")) == (
        "Gateway('https://gw.example/models', missing='warn')"
    )
    assert repr(Gateway()) == "Gateway(missing='omit')"
    assert repr(Gateway("https://a.example", "https://b.example")) == (
        "Gateway('https://a.example', 'https://b.example', missing='omit')"
    )


# The environment


def test_without_a_variable_there_is_no_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Gateway.from_environment() is None
    for name in VARIABLES:
        monkeypatch.setenv(name, "  ")
    assert Gateway.from_environment() is None


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({"CAGENT_MODELS_GATEWAY": "https://gw.example"}, "https://gw.example"),
        ({"DOCKER_AGENT_MODELS_GATEWAY": " https://gw.example/\n"}, "https://gw.example"),
        ({"DOCKER_AGENT_MODELS_GATEWAY": "https://gw.example//"}, "https://gw.example/"),
        ({"DOCKER_AGENT_MODELS_GATEWAY": "", "CAGENT_MODELS_GATEWAY": URL}, URL),
        ({"DOCKER_AGENT_MODELS_GATEWAY": URL, "CAGENT_MODELS_GATEWAY": "nonsense"}, URL),
    ],
)
def test_the_gateway_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], url: str
) -> None:
    """docker-agent reads the variables in the same way."""
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert Gateway.from_environment() == Gateway(url)
    assert Gateway.from_environment(missing="raise") == Gateway(url, missing="raise")
    assert Gateway.from_environment(**NAMES) == Gateway(url, **NAMES)


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("value", ["gw.example", "https://user:hunter2@gw.example"])
def test_the_error_for_an_invalid_variable_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    problem = f"^environment variable {name}: gateway URL"
    with pytest.raises(InvalidGatewayURL, match=problem) as refused:
        Gateway.from_environment()
    assert "hunter2" not in str(refused.value)


# The log


GATEWAY = "https://gw.example"
MARKED = gateway_headers("https://api.openai.com/v1")


def test_each_decision_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    session = mount(requests.Session(), GATEWAY)
    other = "https://other.example/v1/chat"
    with caplog.at_level(logging.DEBUG, "cagent_session"), responses.RequestsMock() as mocked:
        for url in (f"{GATEWAY}/v1/chat", "https://user:hunter2@gw.example/v1/chat", other):
            mocked.post(url)
        mocked.post(f"{GATEWAY}/moved", status=307, headers={"Location": other})
        session.post("https://user:hunter2@gw.example/v1/chat?key=hunter2", headers=MARKED)
        with session_scope("sess-1"):
            session.post(f"{GATEWAY}/v1/chat?key=hunter2", headers=MARKED)
            session.post(f"{GATEWAY}/v1/chat?key=hunter2")
            session.post(f"{other}?key=hunter2", headers=MARKED)
            session.post(f"{other}?key=hunter2")
            session.post(f"{GATEWAY}/moved", headers=MARKED)
    records = [record for record in caplog.records if record.name == "cagent_session"]
    assert [record.getMessage() for record in records] == [
        "no session: POST https://gw.example/v1/chat",
        "stamped: POST https://gw.example/v1/chat",
        "no marker: POST https://gw.example/v1/chat",
        "another origin: POST https://other.example/v1/chat",
        "stamped: POST https://gw.example/moved",
        "left the origin by a redirect: POST https://other.example/v1/chat",
    ]
    assert {record.levelno for record in records} == {logging.DEBUG}


def test_without_a_known_gateway_a_request_without_a_marker_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Such a request may be a request to the gateway."""
    with caplog.at_level(logging.DEBUG, "cagent_session"), responses.RequestsMock() as mocked:
        mocked.get(GATEWAY)
        mount(requests.Session()).get(GATEWAY)
    assert "no marker: GET https://gw.example/" in caplog.messages


def test_without_logging_no_decision_is_made_for_a_request_without_our_headers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Gateway, "decide", lambda *_, **__: pytest.fail("decided"))
    with responses.RequestsMock() as mocked:
        mocked.get(GATEWAY)
        request = requests.Request("GET", GATEWAY).prepare()
        assert SessionIdAdapter(GATEWAY).send(request).status_code == 200


def test_it_is_equal_in_another_process() -> None:
    """In another process, strings have other hashes."""
    program = (
        "import pickle, sys; from cagent_session import Gateway; "
        "gateway = Gateway(*[f'https://{n}.example' for n in range(9)]); "
        "sys.stdout.buffer.write(pickle.dumps(gateway))"
    )
    command, environment = [sys.executable, "-c", program], {**os.environ, "PYTHONHASHSEED": "1"}
    made = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    assert len({pickle.loads(made), Gateway(*[f"https://{n}.example" for n in range(9)])}) == 1
