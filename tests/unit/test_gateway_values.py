"""What a Gateway is: a value that can be compared, copied, and read from the environment."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
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
VARIABLES = ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY")


@pytest.fixture(autouse=True)
def _no_gateway_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_url_may_have_a_path_and_a_query() -> None:
    gateway = Gateway(URL)
    assert gateway.urls == (URL,)
    with session_scope("sess-1"):
        assert gateway.decide("https://api.docker.com/v1/chat", "marker", None)[1] == "sess-1"
        assert gateway.decide("https://docker.com/models?tier=pro", "marker", None)[1] is None


def test_it_has_no_url_one_or_several() -> None:
    assert Gateway().urls == ()
    assert Gateway("https://one.example", "http://two.example:8080").urls == (
        "https://one.example",
        "http://two.example:8080",
    )


def test_equal_gateways_are_equal() -> None:
    assert Gateway(URL) == Gateway(URL, missing="omit")
    assert hash(Gateway(URL)) == hash(Gateway(URL))
    different = {Gateway(), Gateway(URL), Gateway(URL, missing="warn"), Gateway(URL, "http://h")}
    assert len(different) == 4
    assert Gateway(URL) != URL


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda gateway: pickle.loads(pickle.dumps(gateway))]
)
def test_it_can_be_copied_and_pickled(duplicate: Callable[[Any], Any]) -> None:
    gateway = duplicate(Gateway(URL, missing="raise"))
    assert gateway == Gateway(URL, missing="raise")
    with session_scope("sess-1"):
        assert gateway.decide("https://api.docker.com/", "marker", None)[1] == "sess-1"


def test_it_never_changes() -> None:
    gateway = Gateway(URL)
    with pytest.raises(
        AttributeError, match="a Gateway never changes: make another one to set missing"
    ):
        gateway.missing = "raise"
    with pytest.raises(AttributeError, match="urls can't be deleted"):
        del gateway.urls
    assert gateway == Gateway(URL)


def test_its_repr_shows_no_query() -> None:
    assert repr(Gateway("https://gw.example/models?key=hunter2", missing="warn")) == (
        "Gateway('https://gw.example/models', missing='warn')"
    )
    assert repr(Gateway()) == "Gateway(missing='omit')"


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
def test_the_gateway_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], url: str
) -> None:
    """As docker-agent reads it."""
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert Gateway.from_environment() == Gateway(url)
    assert Gateway.from_environment(missing="raise") == Gateway(url, missing="raise")


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("value", ["gw.example", "https://user:hunter2@gw.example"])
def test_a_variable_that_holds_no_gateway_url_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(
        InvalidGatewayURL, match=f"^environment variable {name}: gateway URL"
    ) as refused:
        Gateway.from_environment()
    assert "hunter2" not in str(refused.value)


# The log


GATEWAY = "https://gw.example"
MARKED = gateway_headers("https://api.openai.com/v1")


def test_each_decision_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    session = mount(requests.Session(), GATEWAY)
    path = "/v1/chat?key=hunter2"
    with (
        caplog.at_level(logging.DEBUG, "cagent_session"),
        responses.RequestsMock(assert_all_requests_are_fired=False) as mocked,
    ):
        for origin in (GATEWAY, "https://user:hunter2@gw.example", "https://other.example"):
            mocked.post(origin + "/v1/chat")
        mocked.post(
            f"{GATEWAY}/moved", status=307, headers={"Location": "https://other.example/v1/chat"}
        )
        session.post("https://user:hunter2@gw.example" + path, headers=MARKED)
        with session_scope("sess-1"):
            session.post(GATEWAY + path, headers=MARKED)
            session.post(GATEWAY + path)
            session.post("https://other.example" + path, headers=MARKED)
            session.post("https://other.example" + path)
            session.post(f"{GATEWAY}/moved", headers=MARKED)
    assert [
        record.getMessage() for record in caplog.records if record.name == "cagent_session"
    ] == [
        "no session: POST https://gw.example/v1/chat",
        "stamped: POST https://gw.example/v1/chat",
        "no marker: POST https://gw.example/v1/chat",
        "another origin: POST https://other.example/v1/chat",
        "stamped: POST https://gw.example/moved",
        "left the origin by a redirect: POST https://other.example/v1/chat",
    ]
    assert {r.levelno for r in caplog.records if r.name == "cagent_session"} == {logging.DEBUG}


def test_by_the_marker_alone_a_request_without_one_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It may be the gateway's: only a known gateway tells."""
    with caplog.at_level(logging.DEBUG, "cagent_session"), responses.RequestsMock() as mocked:
        mocked.get(GATEWAY)
        mount(requests.Session()).get(GATEWAY)
    assert "no marker: GET https://gw.example/" in caplog.messages


def test_nothing_is_decided_twice_where_nobody_reads_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request without a marker is not looked at again."""
    monkeypatch.setattr(Gateway, "decide", lambda *_, **__: pytest.fail("decided"))
    with responses.RequestsMock() as mocked:
        mocked.get(GATEWAY)
        request = requests.Request("GET", GATEWAY).prepare()
        assert SessionIdAdapter(GATEWAY).send(request).status_code == 200


def test_it_is_equal_in_another_process() -> None:
    """Whose strings have other hashes."""
    program = (
        "import pickle, sys; from cagent_session import Gateway; "
        "sys.stdout.buffer.write(pickle.dumps(Gateway(*[f'https://{n}.example' for n in range(9)])))"
    )
    made = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "123"
    ]
    assert len({pickle.loads(gateway) for gateway in made}) == 1
