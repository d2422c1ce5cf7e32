"""Tests of LiteLLM's recipe alone: it counts the cost of calls, and checks keys."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from calling import (
    CHAT,
    MODEL,
    STRICT_LITELLM,
    Start,
    agent_headers,
    answer_to,
    price_of,
    question,
    run_query,
    statuses,
)
from programs import HERE, Gateway
from provider import Providers
from pytest_httpserver import HTTPServer

from cagent_session import SESSION_ID_HEADER, new_session_id

OPENAI_HOST = "api.openai.com"
FIRST, SECOND, THIRD = (f"sk-{number}-client" for number in ("first", "second", "third"))


@pytest.fixture
def litellm(start: Start) -> Gateway:
    return start("litellm")


@pytest.fixture
def strict_litellm(start: Start) -> Gateway:
    return start("litellm", STRICT_LITELLM)


def ask(
    gateway: Gateway, session_id: str, key: str, text: str = "Hello, you!", **more: Any
) -> tuple[int, dict[str, Any]]:
    headers = {
        **agent_headers(gateway),
        SESSION_ID_HEADER: session_id,
        "Authorization": f"Bearer {key}",
    }
    body = json.dumps(question(text, **more)).encode()
    status, answer = answer_to(gateway, headers.items(), CHAT, body)
    return status, json.loads(answer)


def test_the_audit_has_the_cost_of_each_session(litellm: Gateway) -> None:
    before, session_id = len(litellm.audit()), new_session_id()
    statuses(litellm, session_id, 3)
    lines = litellm.audit(before + 3)[before:]
    assert [(line["session"], line["model"]) for line in lines] == [(session_id, MODEL)] * 3
    assert sum(line["cost_usd"] for line in lines) == pytest.approx(3 * price_of(2))
    readme = (HERE / "litellm" / "README.rst").read_text(encoding="utf-8")
    (query,) = re.findall(r"(?m)^    (jq .+\n     .+)$", readme)
    bill = {session: sums for session, *sums in map(json.loads, run_query(query, litellm))}
    assert bill[session_id] == [6, 12, pytest.approx(3 * price_of(2))]


def test_each_session_has_its_own_budget(strict_litellm: Gateway, providers: Providers) -> None:
    """The same ID with another key is another session, because an ID is not a secret."""
    session_id, text = new_session_id(), "word " * 10
    answered = [ask(strict_litellm, session_id, FIRST, text)[0] for _ in range(5)]
    # The third call began while the session was below its budget.
    assert answered == [200, 200, 200, 403, 403]
    assert len(providers[OPENAI_HOST].log) == 3
    status, body = ask(strict_litellm, session_id, FIRST)
    assert (status, body["error"]["code"]) == (403, "session_budget_exceeded")
    assert ask(strict_litellm, new_session_id(), FIRST)[0] == 200
    assert ask(strict_litellm, session_id, SECOND)[0] == 200


def test_new_session_ids_do_not_avoid_the_limit_of_the_clients_key(
    strict_litellm: Gateway,
) -> None:
    answered = [ask(strict_litellm, new_session_id(), THIRD)[0] for _ in range(32)]
    assert answered == [200] * 30 + [429] * 2


def test_only_known_keys_are_accepted_and_the_provider_gets_its_own_key(
    litellm: Gateway, providers: Providers
) -> None:
    assert ask(litellm, new_session_id(), "sk-unknown")[0] == 401
    for key in (FIRST, SECOND, THIRD):
        assert ask(litellm, new_session_id(), key)[0] == 200
    keys = {request.headers["Authorization"] for request, _ in providers[OPENAI_HOST].log}
    assert keys == {f"Bearer {litellm.program.variables['OPENAI_API_KEY']}"}


@pytest.mark.parametrize(
    "more",
    [
        {"api_base": "{live}"},
        {"base_url": "{live}"},
        {"custom_llm_provider": "anthropic"},
        {"extra_headers": {"X-Cagent-Forward": "here"}},
        {"fallbacks": ["gpt-4o"]},
        {"mock_response": "for nothing"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_a_client_can_not_change_settings_of_the_gateway(
    more: dict[str, Any], litellm: Gateway, providers: Providers, httpserver: HTTPServer
) -> None:
    """LiteLLM takes settings from the body. One of these settings makes a call free."""
    more = json.loads(json.dumps(more).replace("{live}", httpserver.url_for("/v1")))
    assert ask(litellm, new_session_id(), FIRST, **more)[0] == 400
    assert not httpserver.log
    assert not providers[OPENAI_HOST].log


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/openai/v1/chat/completions", "/key/generate", "/ui", "/chat"]
)
def test_all_other_paths_are_closed(path: str, litellm: Gateway, providers: Providers) -> None:
    headers = {**agent_headers(litellm), SESSION_ID_HEADER: new_session_id()}
    assert answer_to(litellm, headers.items(), path)[0] in (401, 403, 404, 405)
    assert not providers[OPENAI_HOST].log
