"""Tests of ``stamp_botocore``, and of ``instrument`` for botocore, on real sockets."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.httpxsession import HttpxSession
from aiobotocore.session import AioSession
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.session import Session as BotocoreSession
from werkzeug import Request, Response

from cagent_session import (
    FORWARD_HEADER,
    SESSION_ID_HEADER,
    Gateway,
    InvalidGatewayURL,
    MissingSessionId,
    gateway_headers,
    instrument,
    session_id_trace_config,
    session_scope,
    stamp_botocore,
    uninstrument,
)
from cagent_session.testing import Call, ModelsGateway

SERVICE, REGION, KEY, SECRET = "bedrock-runtime", "eu-west-1", "key", "secret"
PROVIDER = f"https://{SERVICE}.{REGION}.amazonaws.com"
HEADERS = gateway_headers(PROVIDER, provider="bedrock")
LOWER_CASE_HEADERS = {name.lower(): value for name, value in HEADERS.items()}
BY_HAND = {FORWARD_HEADER: "https://by-hand.example"}
MODEL = f"arn:aws:bedrock:{REGION}:123456789012:inference-profile/eu.anthropic.model-v1:0"
TEXT = "Hello!"
ECHO = f"You said: {TEXT}"
CONVERSE = {"modelId": MODEL, "messages": [{"role": "user", "content": [{"text": TEXT}]}]}
INVOKE = {
    "modelId": MODEL,
    "body": json.dumps({"messages": [{"role": "user", "content": TEXT}], "max_tokens": 9}),
}
ONCE = Config(retries={"total_max_attempts": 1})


class Recorder(ModelsGateway):
    """A gateway that also records the paths as they arrive. A signature covers them."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []

    def dispatch(self, request: Request) -> Response:
        self.paths.append(request.environ["RAW_URI"])
        return super().dispatch(request)

    @property
    def session_ids(self) -> list[str | None]:
        return [call.session_id for call in self.calls]

    @property
    def markers(self) -> list[str | None]:
        return [call.forward for call in self.calls]


@pytest.fixture
def gateway() -> Iterator[Recorder]:
    with Recorder() as server:
        yield server


@pytest.fixture
def elsewhere() -> Iterator[Recorder]:
    """Another origin. Like a gateway it answers 400 if a call has no marker."""
    with Recorder() as server:
        yield server


@pytest.fixture(autouse=True)
def aws_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use no settings of this machine. Reset what is for the whole process."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    yield
    uninstrument()


@functools.cache  # a new session parses the service's description again
def shared_session() -> boto3.Session:
    return boto3.Session()


def connect(url: str, **options: Any) -> Any:
    return shared_session().client(SERVICE, endpoint_url=url, **{"config": ONCE, **options})


def write_by_hand(client: Any, headers: dict[str, str]) -> None:
    """Let *client* send these headers with each call, before handlers that come last."""
    client.meta.events.register("before-send", lambda request, **_: request.headers.update(headers))


def converse(client: Any) -> Any:
    return client.converse(**CONVERSE)["output"]["message"]["content"][0]["text"]


def converse_stream(client: Any) -> str:
    events = client.converse_stream(**CONVERSE)["stream"]
    deltas = [event["contentBlockDelta"] for event in events if "contentBlockDelta" in event]
    return "".join(delta["delta"]["text"] for delta in deltas)


def invoke_model(client: Any) -> Any:
    return json.load(client.invoke_model(**INVOKE)["body"])["content"][0]["text"]


def invoke_model_with_response_stream(client: Any) -> str:
    stream = client.invoke_model_with_response_stream(**INVOKE)["body"]
    events = [json.loads(event["chunk"]["bytes"]) for event in stream]
    return "".join(event["delta"].get("text", "") for event in events if "delta" in event)


each_operation = pytest.mark.parametrize(
    "operation", [converse, converse_stream, invoke_model, invoke_model_with_response_stream]
)


def our_headers_in(call: Call) -> dict[str, str]:
    named = {name.lower(): value for name, value in call.headers.items()}
    return {name: value for name, value in named.items() if name.startswith("x-cagent-")}


@each_operation
def test_each_operation_carries_the_session_and_the_headers(
    gateway: Recorder, operation: Callable[[Any], str]
) -> None:
    client = connect(gateway.url)
    assert stamp_botocore(client, gateway.url, headers=HEADERS) is client
    with session_scope("sess-1"):
        assert operation(client) == ECHO
    (call,) = gateway.calls
    assert our_headers_in(call) == {**LOWER_CASE_HEADERS, "x-cagent-session-id": "sess-1"}
    assert gateway.usage()["sess-1"].total_tokens == 1 + 3


@pytest.mark.parametrize("known", [True, False], ids=["known gateway", "any gateway"])
@pytest.mark.parametrize("callers", [None, "callers"])
def test_one_client_serves_two_sessions_and_none(
    gateway: Recorder, known: bool, callers: str | None
) -> None:
    """A caller's own ID stays only if there is no session."""
    client = stamp_botocore(connect(gateway.url), gateway.url if known else None)
    write_by_hand(client, BY_HAND if callers is None else {**BY_HAND, SESSION_ID_HEADER: callers})
    for session_id in ("sess-1", "sess-2", None):
        with session_scope(session_id):
            assert converse(client) == ECHO
    assert gateway.session_ids == ["sess-1", "sess-2", callers]


def test_the_headers_only_mark_calls_that_have_no_marker(gateway: Recorder) -> None:
    client = stamp_botocore(connect(gateway.url), gateway.url, headers=HEADERS)
    converse(client)
    write_by_hand(client, BY_HAND)
    converse(client)
    assert gateway.markers == [PROVIDER, BY_HAND[FORWARD_HEADER]]
    assert our_headers_in(gateway.calls[0]) == LOWER_CASE_HEADERS
    assert our_headers_in(gateway.calls[1]).keys() == {"x-cagent-forward"}


@pytest.mark.parametrize("headers", [HEADERS, None], ids=["headers", "no headers"])
def test_a_call_to_another_origin_has_none_of_our_headers(
    gateway: Recorder, elsewhere: Recorder, headers: dict[str, str] | None
) -> None:
    client = stamp_botocore(connect(elsewhere.url), gateway.url, headers=headers)
    write_by_hand(client, {**BY_HAND, SESSION_ID_HEADER: "callers"})
    with session_scope("sess-1"), pytest.raises(ClientError, match="has no marker"):
        converse(client)
    assert not our_headers_in(elsewhere.calls[0])


def test_an_unmarked_call_has_none_of_our_headers(gateway: Recorder) -> None:
    client = stamp_botocore(connect(gateway.url), gateway.url)
    write_by_hand(client, {SESSION_ID_HEADER: "callers"})
    with session_scope("sess-1"), pytest.raises(ClientError, match="has no marker"):
        converse(client)
    assert not our_headers_in(gateway.calls[0])


@pytest.mark.parametrize(
    ("gateway_url", "headers", "error", "message"),
    [
        ("gateway.example", None, InvalidGatewayURL, "absolute"),
        (None, HEADERS, ValueError, "the gateway's URL is known"),
        ("https://gateway.example", {}, ValueError, f"must contain {FORWARD_HEADER}"),
        ("https://gateway.example", {**HEADERS, "A": "b"}, ValueError, "only, got A"),
        (
            "https://gateway.example",
            {**HEADERS, SESSION_ID_HEADER: "1"},
            ValueError,
            r"use session_scope\(\)",
        ),
        ("https://gateway.example", {FORWARD_HEADER: "a\n"}, ValueError, "visible ASCII"),
        ("https://gateway.example", ["a"], TypeError, "must be a mapping"),
    ],
)
def test_after_an_error_the_client_has_its_former_settings(
    gateway: Recorder, gateway_url: Any, headers: Any, error: type[Exception], message: str
) -> None:
    client = stamp_botocore(connect(gateway.url), gateway.url, headers=HEADERS)
    with pytest.raises(error, match=message):
        stamp_botocore(client, gateway_url, headers=headers)
    converse(client)
    assert gateway.markers == [PROVIDER]


Stamp = Callable[[Any], Any]


def by_client(stamp: Stamp, url: str) -> None:
    converse(stamp(boto3.client(SERVICE, endpoint_url=url)))


def by_session(stamp: Stamp, url: str) -> None:
    session = stamp(boto3.Session())
    converse(session.client(SERVICE, endpoint_url=url))


def by_botocore_session(stamp: Stamp, url: str) -> None:
    session = stamp(BotocoreSession())
    converse(session.create_client(SERVICE, endpoint_url=url))


def by_resource(stamp: Stamp, url: str) -> None:
    stamp(boto3.resource("dynamodb", endpoint_url=url)).Table("table").load()


def by_part_of_a_resource(stamp: Stamp, url: str) -> None:
    stamp(boto3.resource("dynamodb", endpoint_url=url).Table("table")).load()


def by_client_with_an_operation_of_that_name(stamp: Stamp, url: str) -> None:
    """Sessions of botocore have a method ``get_component``, too."""
    stamp(boto3.client("greengrassv2", endpoint_url=url)).list_components()


def by_async_client(stamp: Stamp, url: str) -> None:
    async def call() -> None:
        async with AioSession().create_client(SERVICE, endpoint_url=url) as client:
            await stamp(client).converse(**CONVERSE)

    asyncio.run(call())


def by_async_session(stamp: Stamp, url: str) -> None:
    async def call() -> None:
        session = stamp(AioSession())
        async with session.create_client(SERVICE, endpoint_url=url) as client:
            await client.converse(**CONVERSE)

    asyncio.run(call())


@pytest.mark.parametrize(
    "call",
    [
        by_client,
        by_session,
        by_botocore_session,
        by_resource,
        by_part_of_a_resource,
        by_client_with_an_operation_of_that_name,
        by_async_client,
        by_async_session,
    ],
)
def test_clients_resources_and_sessions_can_be_stamped(
    gateway: Recorder, call: Callable[[Stamp, str], None]
) -> None:
    """A session covers the clients that it makes later."""
    gateway.expect_request("/").respond_with_json({"Table": {}})  # for a resource
    gateway.expect_request("/greengrass/v2/components").respond_with_json({})
    with session_scope("sess-1"):
        call(lambda it: stamp_botocore(it, gateway.url, headers=HEADERS), gateway.url)
    assert gateway.session_ids == ["sess-1"]


@pytest.mark.parametrize(
    ("other", "kind"),
    [(None, "NoneType"), (boto3, "module"), (boto3.Session, "type"), ({}, "dict")],
)
def test_anything_else_is_refused_with_its_type(other: object, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"takes a client.*, got builtins\.{kind};"):
        stamp_botocore(other)


def test_an_asynchronous_client_must_be_entered_before_it_is_stamped() -> None:
    context = AioSession().create_client(SERVICE)
    with pytest.raises(TypeError, match=r"got aiobotocore\.session\.ClientCreatorContext; give it"):
        stamp_botocore(context)
    context._coro.close()  # it would warn that it was never awaited


def test_the_second_call_replaces_the_settings(gateway: Recorder, elsewhere: Recorder) -> None:
    client = stamp_botocore(connect(gateway.url), elsewhere.url, headers=HEADERS)
    stamp_botocore(client, Gateway(gateway.url, missing="raise"), headers=BY_HAND)
    with session_scope("sess-1"):
        converse(client)
    with pytest.raises(MissingSessionId):
        converse(client)
    assert gateway.markers == [BY_HAND[FORWARD_HEADER]]


def test_a_clients_settings_replace_those_of_its_session(gateway: Recorder) -> None:
    session = stamp_botocore(boto3.Session(), gateway.url, headers=HEADERS)
    first, second = (session.client(SERVICE, endpoint_url=gateway.url) for _ in range(2))
    stamp_botocore(second, gateway.url, headers=BY_HAND)
    converse(second)
    converse(first)
    assert gateway.markers == [BY_HAND[FORWARD_HEADER], PROVIDER]


def stamped(url: str, **options: Any) -> Any:
    return stamp_botocore(connect(url, **options), url, headers=HEADERS)


def instrumented(url: str, **options: Any) -> Any:
    instrument(url, headers=HEADERS)
    return connect(url, **options)


either_line = pytest.mark.parametrize("line", [stamped, instrumented])
each_retry_mode = pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])


def check_signatures(gateway: Recorder) -> None:
    """Check that the signature of each call is valid without our headers."""
    for call, path in zip(gateway.calls, gateway.paths, strict=True):
        parts = dict(re.findall(r"(\w+)=([^,]+)", call.headers["Authorization"]))
        signed = {name: call.headers[name] for name in parts["SignedHeaders"].split(";")}
        assert signed.keys() >= {"host", "x-amz-date"}
        assert not any(name.startswith("x-cagent-") for name in signed)
        request = AWSRequest(call.method, gateway.url + path, signed, call.body)
        request.context["timestamp"] = call.headers["X-Amz-Date"]
        auth = SigV4Auth(Credentials(KEY, SECRET), "bedrock", REGION)
        to_sign = auth.string_to_sign(request, auth.canonical_request(request))
        assert parts["Signature"] == auth.signature(to_sign, request)


@either_line
@each_operation
def test_the_signature_covers_none_of_our_headers(
    gateway: Recorder, line: Callable[..., Any], operation: Callable[[Any], str]
) -> None:
    """So a gateway can remove them, and the signature stays valid."""
    client = line(gateway.url)
    with session_scope("sess-1"):
        operation(client)
    check_signatures(gateway)
    assert our_headers_in(gateway.calls[0]).keys() >= {"x-cagent-forward", "x-cagent-session-id"}


@either_line
@each_retry_mode
def test_each_attempt_is_signed_and_carries_the_session_once(
    gateway: Recorder, monkeypatch: pytest.MonkeyPatch, line: Callable[..., Any], mode: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # it would wait between two attempts
    client = line(gateway.url, config=Config(retries={"mode": mode, "total_max_attempts": 3}))
    gateway.expect_oneshot_request(re.compile("")).respond_with_json({}, 503)
    with session_scope("sess-1"):
        assert converse(client) == ECHO
    assert [call.status for call in gateway.calls] == [503, 200]
    assert gateway.session_ids == ["sess-1", "sess-1"]
    assert gateway.markers == [PROVIDER, PROVIDER]
    check_signatures(gateway)


@either_line
@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_redirect_is_not_followed(
    gateway: Recorder, elsewhere: Recorder, line: Callable[..., Any], status: int
) -> None:
    location = {"Location": elsewhere.url_for("/elsewhere")}
    gateway.expect_request(re.compile("")).respond_with_json({}, status, location)
    client = line(gateway.url)
    with session_scope("sess-1"), pytest.raises(ClientError, match=str(status)):
        converse(client)
    assert gateway.session_ids == ["sess-1"]
    assert not elsewhere.calls


@either_line
def test_threads_share_a_client_and_keep_their_sessions(
    gateway: Recorder, line: Callable[..., Any]
) -> None:
    client = line(gateway.url)
    session_ids = [f"sess-{number}" for number in range(8)]
    barrier = threading.Barrier(len(session_ids))

    def call(session_id: str) -> None:
        with session_scope(session_id):
            barrier.wait(10)
            for _ in range(3):
                message = {"role": "user", "content": [{"text": session_id}]}
                client.converse(modelId=MODEL, messages=[message])

    threads = [threading.Thread(target=call, args=[session_id]) for session_id in session_ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(map(str, gateway.session_ids)) == sorted(session_ids * 3)
    for each in gateway.calls:
        assert each.json["messages"][0]["content"] == [{"text": each.session_id}]


@each_retry_mode
def test_a_missing_session_raises_and_nothing_is_sent(
    gateway: Recorder, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    """The error is not repeated, and it is not wrapped in another one."""
    client = connect(gateway.url, config=Config(retries={"mode": mode, "total_max_attempts": 3}))
    stamp_botocore(client, Gateway(gateway.url, missing="raise"), headers=HEADERS)
    with (
        caplog.at_level(logging.DEBUG, "cagent_session"),
        pytest.raises(MissingSessionId, match=rf"POST {gateway.url}/model/.+/converse is bound"),
    ):
        converse(client)
    assert sum(message.startswith("no session: POST") for message in caplog.messages) == 1
    assert not gateway.calls


def test_a_missing_session_raises_in_an_asynchronous_call(gateway: Recorder) -> None:
    strict = Gateway(gateway.url, missing="raise")
    with pytest.raises(MissingSessionId):
        by_async_client(lambda it: stamp_botocore(it, strict, headers=HEADERS), gateway.url)
    assert not gateway.calls


def test_instrument_serves_clients_made_before_and_after(gateway: Recorder) -> None:
    before = connect(gateway.url)
    after = instrumented(gateway.url)
    for session_id in ("sess-1", "sess-2", None):
        with session_scope(session_id):
            converse(before)
            converse(after)
    assert gateway.session_ids == ["sess-1", "sess-1", "sess-2", "sess-2", None, None]
    assert set(gateway.markers) == {PROVIDER}
    uninstrument()
    for client in (before, after):
        with session_scope("sess-1"), pytest.raises(ClientError, match="has no marker"):
            converse(client)
    assert not any(our_headers_in(call) for call in gateway.calls[-2:])


def test_a_stamped_client_keeps_its_settings_under_instrument(
    gateway: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    client = stamp_botocore(connect(gateway.url), gateway.url, headers=BY_HAND)
    instrument(gateway.url, headers=HEADERS, missing="raise")
    with caplog.at_level(logging.DEBUG, "cagent_session"):
        for session_id in ("sess-1", None):
            with session_scope(session_id):
                converse(client)
    assert gateway.session_ids == ["sess-1", None]
    assert gateway.markers == [BY_HAND[FORWARD_HEADER]] * 2
    reasons = [message.partition(":")[0] for message in caplog.messages]
    assert reasons == ["stamped", "no session"]


class TracedSession(AIOHTTPSession):  # type: ignore[misc] # aiobotocore has no types
    """Gives its client of aiohttp a trace config. aiobotocore has no public way for that."""

    gateway: str

    async def _get_session(self, proxy_url: str | None) -> Any:
        session = await super()._get_session(proxy_url)
        if not session.trace_configs:
            config = session_id_trace_config(self.gateway)
            config.freeze()
            session.trace_configs.append(config)
        return session


def on_aiohttp_with_a_trace_config(url: str) -> type:
    return type("Traced", (TracedSession,), {"gateway": url})


def on_aiohttp_under_instrument(url: str) -> type:
    instrument(url, headers=HEADERS)
    untyped: type = AIOHTTPSession
    return untyped


async def converse_async(url: str, http_session: type, stamp: Stamp) -> None:
    config = AioConfig(http_session_cls=http_session, retries={"total_max_attempts": 1})
    options = {"endpoint_url": url, "config": config}
    async with AioSession().create_client(SERVICE, **options) as client:
        await stamp(client).converse(**CONVERSE)


@pytest.mark.parametrize(
    ("prepare", "is_stamped"),
    [
        (on_aiohttp_with_a_trace_config, True),
        (on_aiohttp_under_instrument, True),
        (on_aiohttp_under_instrument, False),
    ],
)
def test_aiobotocore_follows_a_redirect_without_our_headers(
    gateway: Recorder, elsewhere: Recorder, prepare: Callable[[str], type], is_stamped: bool
) -> None:
    location = {"Location": elsewhere.url_for("/elsewhere")}
    gateway.expect_request(re.compile("")).respond_with_json({}, 307, location)

    def stamp(client: Any) -> Any:
        return stamp_botocore(client, gateway.url, headers=HEADERS) if is_stamped else client

    with session_scope("sess-1"), pytest.raises(ClientError, match="has no marker"):
        asyncio.run(converse_async(gateway.url, prepare(gateway.url), stamp))
    (call,) = gateway.calls
    assert our_headers_in(call) == {**LOWER_CASE_HEADERS, "x-cagent-session-id": "sess-1"}
    (followed,) = elsewhere.calls
    assert not our_headers_in(followed)


def test_aiobotocore_on_httpx_does_not_follow_a_redirect(
    gateway: Recorder, elsewhere: Recorder
) -> None:
    location = {"Location": elsewhere.url_for("/elsewhere")}
    gateway.expect_request(re.compile("")).respond_with_json({}, 307, location)

    def stamp(client: Any) -> Any:
        return stamp_botocore(client, gateway.url, headers=HEADERS)

    with session_scope("sess-1"), pytest.raises(ClientError, match="307"):
        asyncio.run(converse_async(gateway.url, HttpxSession, stamp))
    assert gateway.session_ids == ["sess-1"]
    assert not elsewhere.calls
