"""Tests that the gateways count the same tokens as ModelsGateway, from the same table."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from calling import (
    BAD_REQUEST,
    CHAT,
    COUNT_TOKENS,
    MODEL,
    OPENAI,
    agent_headers,
    answer_to,
    error_of,
    question,
)
from programs import Gateway
from provider import Provider, Providers
from token_answers import (
    ADVISED,
    ADVISED_TOKENS,
    COMPACTED,
    COMPACTED_TOKENS,
    COMPACTION,
    CONTRADICTING,
    CONTRADICTING_TOKENS,
    LAST,
    usage_with,
)
from werkzeug import Request, Response

from cagent_session import SESSION_ID_HEADER, new_session_id
from cagent_session.testing.answers import default_answer
from cagent_session.testing.tokens import NUMBERS, TOKEN_FIELDS, TokenFields

ANTHROPIC, GOOGLE = "https://api.anthropic.com", "https://generativelanguage.googleapis.com"
MESSAGES, GEMINI = "/v1/messages", "/v1beta/models/gemini-2.5-flash:"
# For each format of the table that one of the recipes' providers has: the marker, and the path and
# the body of a call, not streamed and streamed.
Calls = tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]
FORMATS: dict[str, tuple[str, Calls]] = {
    "OpenAI's chat completions and embeddings": (
        OPENAI,
        (
            (CHAT, question()),
            (CHAT, question(stream=True, stream_options={"include_usage": True})),
        ),
    ),
    "OpenAI's responses": (
        OPENAI,
        (
            ("/v1/responses", {"model": MODEL, "input": "Hello"}),
            ("/v1/responses", {"model": MODEL, "input": "Hello", "stream": True}),
        ),
    ),
    "Anthropic": (
        ANTHROPIC,
        (
            (MESSAGES, question(max_tokens=99)),
            (MESSAGES, question(max_tokens=99, stream=True)),
        ),
    ),
    "Gemini": (
        GOOGLE,
        (
            (f"{GEMINI}generateContent", {"contents": [{"parts": [{"text": "Hello"}]}]}),
            (
                f"{GEMINI}streamGenerateContent?alt=sse",
                {"contents": [{"parts": [{"text": "Hello"}]}]},
            ),
        ),
    ),
}
HOSTS = {OPENAI: "api.openai.com", ANTHROPIC: "api.anthropic.com"}
HOSTS[GOOGLE] = "generativelanguage.googleapis.com"
TABLE = [fields for fields in TOKEN_FIELDS if fields.format in FORMATS]

EACH = pytest.mark.parametrize("name", COUNT_TOKENS)
# LiteLLM has a list of open paths. It passes on neither the query nor these headers.
NOT_LITELLM = pytest.mark.parametrize("name", ["haproxy", "envoy"])


def stating(request: Request, places: dict[str, dict[str, Any]]) -> Response:
    """Return an answer that states at each of the *places* what is given for it."""
    answer = default_answer(request)
    assert answer is not None
    streamed = answer.mimetype == "text/event-stream"
    lines = answer.get_data().split(b"\n") if streamed else [answer.get_data()]
    for number, line in enumerate(lines):
        begin, brace, rest = line.partition(b"{")
        if brace:
            document = json.loads(brace + rest)
            for place, usage in places.items():
                state(document, place, usage)
            lines[number] = begin + json.dumps(document).encode()
    return Response(b"\n".join(lines), mimetype=answer.mimetype)


def state(document: Any, place: str, usage: dict[str, Any]) -> None:
    """If *document* has an object at *place*, replace it."""
    *names, last = place.split(".")
    for name in names:
        document = document.get(name, {})
    if isinstance(document.get(last), dict):
        document[last] = usage


def audited(
    gateway: Gateway, providers: Providers, fields: TokenFields, streamed: bool, answer: Any
) -> dict[str, int]:
    """Make a call in this format. Return the tokens in its line of the audit."""
    forward, calls = FORMATS[fields.format]
    path, body = calls[streamed]
    provider: Provider = providers[HOSTS[forward]]
    provider.expect_request(path.partition("?")[0]).respond_with_handler(answer)
    before = len(gateway.audit())
    headers = {**agent_headers(forward), SESSION_ID_HEADER: new_session_id()}
    status, _ = answer_to(gateway, headers.items(), path, json.dumps(body).encode())
    assert status == 200
    (line,) = gateway.audit(before + 1)[before:]
    return {number: line.get(number, 0) for number in NUMBERS}


@EACH
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("fields", TABLE, ids=lambda fields: fields.format)
def test_each_format_of_the_table_is_in_the_audit(
    fields: TokenFields, streamed: bool, gateway: Gateway, providers: Providers
) -> None:
    """Anthropic's streams state the tokens twice. They are the same tokens."""
    usage, numbers = usage_with(fields)
    total = numbers["prompt_tokens"] + numbers["completion_tokens"]
    usage = {**usage, **dict.fromkeys(("total_tokens", "totalTokenCount"), total)}
    places = dict.fromkeys(fields.places, usage)
    found = audited(gateway, providers, fields, streamed, lambda request: stating(request, places))
    assert found == numbers


ITERATED = [
    pytest.param(streamed, events, tokens, id=f"{'streamed' if streamed else 'plain'}: {what}")
    for cases, tokens in [(COMPACTED, COMPACTED_TOKENS), (ADVISED, ADVISED_TOKENS)]
    for what, events in cases.items()
    for streamed in (False, True)
    if streamed or len(events) == 1
]
(ANTHROPIC_FIELDS,) = (fields for fields in TABLE if fields.format == "Anthropic")


def places_of(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what Anthropic's *events* state, by place."""
    return {
        "message.usage" if "message" in event else "usage": (event.get("message") or event)["usage"]
        for event in events
    }


@EACH
@pytest.mark.parametrize(("streamed", "events", "tokens"), ITERATED)
def test_all_iterations_of_a_message_are_in_the_audit(
    streamed: bool,
    events: list[dict[str, Any]],
    tokens: tuple[int, int],
    gateway: Gateway,
    providers: Providers,
) -> None:
    places = places_of(events)
    found = audited(
        gateway, providers, ANTHROPIC_FIELDS, streamed, lambda request: stating(request, places)
    )
    assert (found["prompt_tokens"], found["completion_tokens"]) == tokens


@NOT_LITELLM  # it has its own way to read figures that contradict each other
def test_figures_that_contradict_each_other_are_not_less_than_nothing(
    gateway: Gateway, providers: Providers
) -> None:
    places = places_of(CONTRADICTING)
    found = audited(
        gateway, providers, ANTHROPIC_FIELDS, True, lambda request: stating(request, places)
    )
    assert (found["prompt_tokens"], found["completion_tokens"]) == CONTRADICTING_TOKENS


@EACH
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_the_cached_tokens_of_iterations_are_in_the_audit(
    streamed: bool, gateway: Gateway, providers: Providers
) -> None:
    cached = {"cache_read_input_tokens": 500, "cache_creation_input_tokens": 20}
    each = [COMPACTION, {**LAST, **cached}, {**LAST, **cached}]
    places = {"usage": {**LAST, **cached, "iterations": each}}
    found = audited(
        gateway, providers, ANTHROPIC_FIELDS, streamed, lambda request: stating(request, places)
    )
    assert [*found.values()] == [227_040, 5_500, 1_000, 40]


@NOT_LITELLM  # its streams of Gemini are always server-sent events
def test_geminis_list_of_events_is_counted(gateway: Gateway, providers: Providers) -> None:
    """Without alt=sse, Gemini streams a list."""
    (fields,) = (fields for fields in TABLE if fields.format == "Gemini")
    usage, numbers = usage_with(fields)
    events = [{"candidates": [{"index": 0}]}, {"usageMetadata": usage}]
    found = audited(
        gateway,
        providers,
        fields,
        False,
        lambda _: Response(json.dumps(events), mimetype="application/json"),
    )
    assert found == numbers


# Answers that state tokens which no completion has spent.
USAGE = {"input_tokens": 7, "output_tokens": 2}
UNSPENT = {
    f"POST {MESSAGES}/count_tokens": (ANTHROPIC, {"input_tokens": 7}),
    f"POST {GEMINI}countTokens": (GOOGLE, {"totalTokens": 7, "cachedContentTokenCount": 2}),
    "POST /v1/responses/input_tokens": (OPENAI, {"usage": USAGE, "input_tokens": 7}),
    "GET /v1/responses/resp_1": (OPENAI, {"usage": USAGE, "status": "completed"}),
    "POST /v1/responses/resp_1/cancel": (OPENAI, {"usage": USAGE, "status": "cancelled"}),
    "POST /v1/chat/completions/chatcmpl_1": (OPENAI, {"usage": {"prompt_tokens": 7}}),
    "GET /v1/chat/completions/chatcmpl_1": (OPENAI, {"usage": {"prompt_tokens": 7}}),
}


@EACH
@pytest.mark.parametrize("called", UNSPENT)
def test_tokens_that_no_completion_has_spent_are_not_counted(
    called: str, gateway: Gateway, providers: Providers
) -> None:
    method, path = called.split()
    forward, document = UNSPENT[called]
    providers[HOSTS[forward]].expect_request(path).respond_with_json(document)
    before = len(gateway.audit())
    headers = {**agent_headers(forward), SESSION_ID_HEADER: new_session_id()}
    answer_to(gateway, headers.items(), path, method=method)
    (line,) = gateway.audit(before + 1)[before:]
    assert [line.get(number, 0) for number in NUMBERS] == [0] * len(NUMBERS)


@NOT_LITELLM
@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/../completions",
        "/v1/chat/completions/.",
        f"{MESSAGES}//count_tokens",
        f"{MESSAGES};count_tokens",
        f"{MESSAGES}%3Fcount_tokens",
        f"{MESSAGES}%23/count_tokens",
    ],
)
def test_a_path_that_only_looks_like_one_that_spends_nothing_is_counted(
    path: str, gateway: Gateway, providers: Providers
) -> None:
    """A provider may take it for another path."""
    for host in HOSTS.values():
        providers[host].expect_request(re.compile(".*")).respond_with_json({"usage": USAGE})
    headers = {**agent_headers(), SESSION_ID_HEADER: new_session_id()}
    assert answer_to(gateway, headers.items(), path)[0] == 200
    (line,) = gateway.audit(1)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 2)


@EACH
@pytest.mark.parametrize("status", [400, 500])
def test_a_call_that_has_failed_costs_no_tokens(
    status: int, gateway: Gateway, providers: Providers
) -> None:
    answer = {"error": {"message": "no"}, "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    providers[HOSTS[OPENAI]].expect_request(CHAT).respond_with_json(answer, status)
    before = len(gateway.audit())
    headers = {**agent_headers(), SESSION_ID_HEADER: new_session_id()}
    assert answer_to(gateway, headers.items())[0] == status
    (line,) = gateway.audit(before + 1)[before:]
    assert [line.get(number, 0) for number in NUMBERS] == [0] * len(NUMBERS)


@NOT_LITELLM
@pytest.mark.parametrize(
    "query", ["fields=candidates", "alt=proto", "callback=f", "alt=", "$fields=a"]
)
def test_a_client_can_not_hide_its_tokens(
    query: str, gateway: Gateway, providers: Providers
) -> None:
    """With these parameters and headers, Google's answers state no tokens that can be read."""
    path, asked = FORMATS["Gemini"][1][0]
    body = json.dumps(asked).encode()
    headers = {**agent_headers(GOOGLE), SESSION_ID_HEADER: new_session_id()}
    status, answer = answer_to(gateway, headers.items(), f"{path}?alt=json&{query}", body)
    assert error_of(status, answer) == BAD_REQUEST
    hiding = {"X-Goog-FieldMask": "candidates", "X-HTTP-Method-Override": "GET"}
    assert answer_to(gateway, {**headers, **hiding}.items(), path, body)[0] == 200
    ((request, _),) = providers[HOSTS[GOOGLE]].log
    assert not {name.lower() for name in hiding} & {name.lower() for name, _ in request.headers}
