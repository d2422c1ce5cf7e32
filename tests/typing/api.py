"""The types of the public names. mypy and pyright check this file. It is not run.

Both must find an error in each line with ``type: ignore``. Otherwise they report the comment.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import functools
import logging
import sys
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Literal

import aiohttp
import httpx
import httpx2
import requests
from opentelemetry.sdk.trace import TracerProvider
from requests.adapters import BaseAdapter, HTTPAdapter

import cagent_session
from cagent_session import (
    FORWARD_HEADER,
    SESSION_ID_HEADER,
    Gateway,
    InvalidGatewayURL,
    InvalidSessionId,
    MissingSessionId,
    MissingSessionIdWarning,
    Route,
    SessionExecutor,
    SessionIdAdapter,
    async_session_id_hook,
    carry_session,
    compacting,
    current_session_id,
    explain,
    gateway_headers,
    generating_title,
    in_session,
    instrument,
    mount,
    new_session_id,
    root_session_id,
    session_factory,
    session_id_hook,
    session_id_trace_config,
    session_scope,
    stamp_botocore,
    sub_session,
    uninstrument,
    unmount,
)
from cagent_session.integrations.logging import SessionIdFilter
from cagent_session.integrations.opentelemetry import SessionIdSpanProcessor
from cagent_session.testing import Call, ModelsGateway, Usage

if sys.version_info >= (3, 11):
    from typing import assert_type
else:
    from typing_extensions import assert_type

GATEWAY = "https://gateway.example"


class Sess:
    id: str


class SDKSession(requests.Session): ...


# The package

assert_type(cagent_session.__version__, str)


def a_name_that_does_not_exist_is_an_error() -> None:
    from cagent_session import session_scop  # type: ignore[attr-defined] # noqa: F401, PLC0415


# IDs and scopes

assert_type(current_session_id(), str | None)
assert_type(new_session_id(), str)

with session_scope("sess-1") as session_id:
    id_given: str = session_id
with session_scope(uuid.uuid4()), session_scope(None), session_scope(current_session_id()):
    ...

with session_scope("root"), sub_session("sub") as sub_id, compacting(), generating_title():
    sub_given: str = sub_id
assert_type(root_session_id(), str | None)

session_scope(1)  # type: ignore[arg-type] # no ID
sub_session(1)  # type: ignore[arg-type] # no ID
session_scope(b"sess-1")  # type: ignore[arg-type] # no ID
session_scope()  # type: ignore[call-arg] # an ID is needed


def always_raises_in_a_scope() -> int:
    with session_scope("sess-1"):  # exceptions leave a scope, so no return is missing
        raise ValueError


# in_session: a function keeps its type


@in_session("session_id")
def function(prompt: str, session_id: str | None = None) -> int:
    return len(prompt)


@in_session("sess.id")
def generator(sess: Sess) -> Generator[int, str, bytes]:
    _ = yield 1
    return b""


@in_session("sess.id", as_sub_session=True)
async def coroutine(sess: Sess, *, retries: int = 0) -> float:
    return 0.5


@in_session("sess.id")
async def async_generator(sess: Sess) -> AsyncGenerator[int, str]:
    _ = yield 1


assert_type(function("hi", session_id="sess-1"), int)
assert_type(generator(Sess()), Generator[int, str, bytes])
awaitable: Coroutine[Any, Any, float] = coroutine(Sess(), retries=1)
assert_type(async_generator(Sess()), AsyncGenerator[int, str])

function(1)  # type: ignore[arg-type] # the parameter's type is kept
generator("sess-1")  # type: ignore[arg-type] # the parameter's type is kept


async def awaits() -> None:
    assert_type(await coroutine(Sess()), float)
    await coroutine(Sess(), 1)  # type: ignore[call-arg] # the parameter's kind is kept
    async for item in async_generator(Sess()):
        assert_type(item, int)
    assert_type(await Agent.static("sess-1"), str)
    assert_type(await carry_session(coroutine)(Sess()), float)


def session_id_of(sess: Sess, *_: object) -> str | uuid.UUID | None:
    return sess.id


@in_session(session_id_of)
def found_by_function(sess: Sess) -> int:
    return 1


@in_session(lambda sess: sess.id)
def found_by_lambda(sess: Sess) -> int:
    return 1


assert_type(found_by_function(Sess()), int)
assert_type(found_by_lambda(Sess()), int)


class Agent:
    id = "agent"

    @in_session("self.id")
    def run(self, prompt: str) -> Iterator[str]:
        yield prompt

    @classmethod
    @in_session("cls.id")
    def of_the_class(cls, prompt: str) -> str:
        return prompt

    @staticmethod
    @in_session("session_id")
    async def static(session_id: str) -> str:
        return session_id


assert_type(Agent().run("hi"), Iterator[str])
assert_type(Agent.of_the_class("hi"), str)

in_session(1)  # type: ignore[arg-type] # neither a name nor a callable
in_session("session_id")("text")  # type: ignore[type-var] # not a function
in_session(len)  # type: ignore[arg-type] # gives no ID


# The gateway

gateway = Gateway(GATEWAY, "https://other.example/models?tier=pro", missing="warn")
assert_type(gateway.urls, tuple[str, ...])
assert_type(gateway.missing, Literal["omit", "warn", "raise"])
assert_type(Gateway.from_environment(), Gateway | None)
assert_type(Gateway.from_environment(missing="raise"), Gateway | None)
hash(gateway)
plain = Gateway(GATEWAY, session_header="x-session-id", marker=None, root_header="X-Root")
assert_type(plain.session_header, str)
assert_type(plain.marker, str | None)
assert_type(Gateway.from_environment(marker=None, parent_header="X-Parent"), Gateway | None)
Gateway(GATEWAY, session_header=None)  # type: ignore[arg-type] # it always has one
Gateway.from_environment(marker=1)  # type: ignore[arg-type] # a name is a str
Gateway.from_environment(header="X-Id")  # type: ignore[call-arg] # no such name

route: Route = gateway.route("openai", forward=None, model="gpt-4o", install_id=uuid.uuid4())
base_url: str = route.base_url
sent: dict[str, str] = {**route.headers, **route.query}
gateway.route("openai", model=1)  # type: ignore[arg-type] # a model's ID is a str
Gateway(b"https://gateway.example")  # type: ignore[arg-type] # a URL is a str
Gateway(missing="ignore")  # type: ignore[arg-type] # no such choice
Gateway.from_environment("raise")  # type: ignore[call-arg] # keywords only


# carry_session and SessionExecutor


def job(number: int, /, *names: str, flag: bool = False) -> complex:
    return number + len(names) + flag


carried = carry_session(job)
assert_type(carried(1, "a", "b", flag=True), complex)
carried("1")  # type: ignore[arg-type] # the signature is kept
carried(1, other=True)  # type: ignore[call-arg] # the signature is kept
carry_session(None)  # type: ignore[arg-type] # nothing to call

assert_type(carry_session(generator)(Sess()), Generator[int, str, bytes])
assert_type(carry_session(async_generator)(Sess()), AsyncGenerator[int, str])
assert_type(carry_session(Sess)(), Sess)
assert_type(carry_session(functools.partial(job, 1))(), complex)

executor: Executor = SessionExecutor(ThreadPoolExecutor())
with SessionExecutor(ProcessPoolExecutor()) as pool:
    assert_type(pool, SessionExecutor)
    assert_type(pool.submit(job, 1, "a", flag=True), Future[complex])
    assert_type(pool.map(function, ["a"], timeout=1.5, chunksize=2), Iterator[int])
    pool.submit(job, "1")  # type: ignore[arg-type] # a job's arguments are checked
    pool.shutdown(wait=False, cancel_futures=True)
SessionExecutor(None)  # type: ignore[arg-type] # no executor


# requests

adapter: HTTPAdapter = SessionIdAdapter()
SessionIdAdapter(GATEWAY, inner=HTTPAdapter(), missing="warn")
SessionIdAdapter(gateway=GATEWAY, missing="raise", max_retries=3, pool_maxsize=20)
assert_type(SessionIdAdapter().send(requests.PreparedRequest(), timeout=3.0), requests.Response)
assert_type(SessionIdAdapter().inner, BaseAdapter | None)
SessionIdAdapter(gateway, inner=HTTPAdapter())
assert_type(SessionIdAdapter(GATEWAY).gateway, Gateway)
SessionIdAdapter(missing="ignore")  # type: ignore[arg-type] # no such choice
SessionIdAdapter(inner=requests.Session())  # type: ignore[arg-type] # no adapter
SessionIdAdapter(b"https://gateway.example")  # type: ignore[arg-type] # a URL is a str

assert_type(mount(requests.Session()), requests.Session)
assert_type(mount(SDKSession(), GATEWAY, missing="omit"), SDKSession)
assert_type(mount(SDKSession(), gateway), SDKSession)
assert_type(mount(SDKSession(), Gateway.from_environment(), missing="raise"), SDKSession)
assert_type(unmount(SDKSession()), SDKSession)
mount(requests.Session(), missing="ignore")  # type: ignore[arg-type] # no such choice
mount(httpx.Client())  # type: ignore[type-var] # httpx takes hooks instead
unmount(httpx.Client())  # type: ignore[type-var] # httpx takes hooks instead


def make_session(pool_size: int = 10) -> SDKSession:
    return SDKSession()


factory: Callable[..., requests.Session] = session_factory()
sdk_factory: Callable[..., SDKSession] = session_factory(SDKSession)
assert_type(session_factory()(), requests.Session)
assert_type(session_factory(gateway=GATEWAY, missing="raise")(), requests.Session)
assert_type(session_factory(gateway=gateway)(), requests.Session)
assert_type(session_factory(SDKSession, gateway)(), SDKSession)
assert_type(session_factory(SDKSession)(), SDKSession)
assert_type(session_factory(make_session, GATEWAY)(pool_size=5), SDKSession)
assert_type(
    session_factory(gateway=GATEWAY, headers={"X-Cagent-Forward": GATEWAY}, max_retries=2)(),
    requests.Session,
)
session_factory(make_session)(pool_size="5")  # type: ignore[arg-type] # the signature is kept
session_factory(make_session, max_retries=2)  # type: ignore[call-overload] # make mounts what it likes
session_factory(missing="ignore")  # type: ignore[call-overload] # no such choice
session_factory(Sess)  # type: ignore[type-var] # makes no sessions


# httpx and httpx2: one hook for synchronous and asynchronous clients

hook = session_id_hook(GATEWAY, missing="raise")
sync_hook: Callable[[httpx.Request], object] = hook
async_hook: Callable[[httpx.Request], Awaitable[None]] = async_session_id_hook(gateway)

httpx.Client(event_hooks={"request": [hook, session_id_hook(), sync_hook]})
httpx.AsyncClient(event_hooks={"request": [hook, session_id_hook(), async_hook]})
httpx2.Client(event_hooks={"request": [hook, session_id_hook(), sync_hook]})
httpx2.AsyncClient(event_hooks={"request": [hook, session_id_hook(), async_hook]})

session_id_hook(Gateway.from_environment())
session_id_hook(gateway=gateway, missing="warn")
session_id_hook(missing="ignore")  # type: ignore[arg-type] # no such choice
async_session_id_hook(missing="ignore")  # type: ignore[arg-type] # no such choice


# instrument, aiohttp and botocore: without types, a boto3 client is Any

assert_type(instrument(), None)
assert_type(instrument(gateway, headers=gateway_headers(GATEWAY), missing="raise"), None)
assert_type(uninstrument(), None)
instrument(missing="ignore")  # type: ignore[arg-type] # no such choice
instrument(GATEWAY, {})  # type: ignore[call-arg] # headers is a keyword

assert_type(session_id_trace_config(gateway), aiohttp.TraceConfig)
session_id_trace_config(GATEWAY, "raise")  # type: ignore[call-arg] # give a Gateway

assert_type(stamp_botocore(Sess(), GATEWAY, headers={"X-Cagent-Forward": GATEWAY}), Sess)


# explain

assert_type(explain(requests.Session(), GATEWAY), str)
assert_type(explain(httpx.AsyncClient(), GATEWAY, headers={FORWARD_HEADER: GATEWAY}), str)
explain(httpx2.Client(), GATEWAY, gateway_headers(GATEWAY))
explain(requests, GATEWAY)
explain(requests.Session())  # type: ignore[call-arg] # a URL is needed


# Headers and errors

assert_type(gateway_headers("https://api.openai.com/v1"), dict[str, str])
headers = gateway_headers(
    "https://api.openai.com/v1",
    provider="openai",
    model="gpt-4o",
    model_name=None,
    install_id=uuid.uuid4(),
    generating_title=True,
    compacting=False,
)
requests.Session().headers.update(headers)
httpx.Client(headers=headers)
httpx2.Client(headers=headers)
gateway_headers()  # type: ignore[call-arg] # the provider's URL is needed
gateway_headers("https://api.openai.com/v1", "openai")  # type: ignore[call-arg] # keywords only

by_hand: dict[str, str] = {FORWARD_HEADER: "https://api.openai.com/v1", SESSION_ID_HEADER: "sess-1"}

value_errors: list[type[ValueError]] = [InvalidSessionId, InvalidGatewayURL]
runtime_error: type[RuntimeError] = MissingSessionId
warning: type[UserWarning] = MissingSessionIdWarning


# The integrations, as arguments of logging and OpenTelemetry

logging.StreamHandler().addFilter(SessionIdFilter())
SessionIdFilter(default="none")
SessionIdFilter(default=None)
SessionIdFilter("agent")  # type: ignore[call-arg] # logging.Filter takes a name, this filter does not
TracerProvider().add_span_processor(SessionIdSpanProcessor())


# The gateway for tests

server = ModelsGateway("localhost", 0, session_header="x-session-id", marker=None)
ModelsGateway(root_header=None, parent_header="x-parent-session-id")
assert_type(server.gateway, Gateway)
assert_type(server.usage(), dict[str | None, Usage])
assert_type(server.usage(by="root"), dict[str | None, Usage])
assert_type(server.calls_in(uuid.uuid4()), list[Call])
assert_type(server.calls[0].root_session_id, str | None)
assert_type(server.calls[0].parent_session_id, str | None)
mount(requests.Session(), server.gateway)
ModelsGateway(session_header=None)  # type: ignore[arg-type] # it always has one
ModelsGateway("localhost", 0, None, "x-session-id")  # type: ignore[call-arg] # names are keywords
server.usage(by="parent")  # type: ignore[arg-type] # no such bill
