"""What can LiteLLM's recipe do that is not in the others? Bill in money, and keep the keys of providers and clients."""

from __future__ import annotations

import json
from typing import Any

import pytest
from calling import CHAT, MODEL, Start, agent_headers, answer_to, question, statuses
from programs import Gateway
from provider import Providers
from pytest_httpserver import HTTPServer

from cagent_session import SESSION_ID_HEADER, new_session_id

PRICE = (
    2 * 0.15e-6 + 4 * 0.60e-6
)  # US dollars, of a question of two words to gpt-4o-mini, answered with four
OPENAI_HOST = "api.openai.com"


def ask(gateway: Gateway, session_id: str, key: str, **more: Any) -> tuple[int, dict[str, Any]]:
    headers = {
        **agent_headers(gateway),
        SESSION_ID_HEADER: session_id,
        "Authorization": f"Bearer {key}",
    }
    status, body = answer_to(gateway, headers.items(), CHAT, json.dumps(question(**more)).encode())
    return status, json.loads(body)


def test_each_session_is_billed_in_money(shared_litellm: Gateway, providers: Providers) -> None:
    before, session_id = len(shared_litellm.audit()), new_session_id()
    statuses(shared_litellm, session_id, 3)
    lines = shared_litellm.audit(before + 3)[before:]
    assert [(line["session"], line["model"]) for line in lines] == [(session_id, MODEL)] * 3
    assert sum(line["cost_usd"] for line in lines) == pytest.approx(3 * PRICE)


def test_a_budget_stops_one_session_and_not_another(start: Start, providers: Providers) -> None:
    gateway = start(
        "litellm", {"max_budget_per_session: 5.00": f"max_budget_per_session: {2.5 * PRICE:.10f}"}
    )
    one, other = new_session_id(), new_session_id()
    assert statuses(gateway, one, 5) == [
        200,
        200,
        200,
        403,
        403,
    ]  # what is under way is billed, and then no more
    assert statuses(gateway, other, 3) == [200, 200, 200]
    status, body = ask(gateway, one, gateway.key)
    assert (status, body["error"]["code"]) == (403, "session_budget_exceeded")
    assert len(providers[OPENAI_HOST].log) == 6


def test_whoever_invents_a_session_for_each_call_meets_the_limit_of_the_key(start: Start) -> None:
    gateway = start("litellm", {"KEY_RPM = 600": "KEY_RPM = 5"})
    answered = [ask(gateway, new_session_id(), gateway.key)[0] for _ in range(7)]
    assert answered == [200] * 5 + [429] * 2


def test_only_known_keys_are_served_and_the_provider_gets_its_own(
    shared_litellm: Gateway, providers: Providers
) -> None:
    assert ask(shared_litellm, new_session_id(), "sk-unknown")[0] == 401
    assert ask(shared_litellm, new_session_id(), shared_litellm.key)[0] == 200
    ((request, _),) = providers[OPENAI_HOST].log
    assert (
        request.headers["Authorization"]
        == f"Bearer {shared_litellm.program.variables['OPENAI_API_KEY']}"
    )


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
def test_a_client_can_not_set_what_is_the_gateways(
    more: dict[str, object], shared_litellm: Gateway, providers: Providers, httpserver: HTTPServer
) -> None:
    """LiteLLM takes settings from the body; one of these makes a call cost nothing."""
    more = json.loads(json.dumps(more).replace("{live}", httpserver.url_for("/v1")))
    assert ask(shared_litellm, new_session_id(), shared_litellm.key, **more)[0] == 400
    assert not httpserver.log
    assert not providers[OPENAI_HOST].log


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/openai/v1/chat/completions", "/key/generate", "/ui", "/chat"]
)
def test_no_other_path_is_a_way_around(
    path: str, shared_litellm: Gateway, providers: Providers
) -> None:
    headers = {**agent_headers(shared_litellm), SESSION_ID_HEADER: new_session_id()}
    assert answer_to(shared_litellm, headers.items(), path)[0] in (401, 403, 404, 405)
    assert not providers[OPENAI_HOST].log
