"""The checks that LiteLLM's configuration lacks: keys, markers and session IDs. Also the audit.

config.yaml names this module, and LiteLLM loads it at its start. :class:`Gateway` stands in front
of LiteLLM's own app. It lets only calls of known clients through, and only the fields of the
provider's API. LiteLLM counts and prices the calls. The limits are in config.yaml.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from logging.handlers import WatchedFileHandler
from typing import Any
from urllib.parse import parse_qs

import httpx
import litellm
from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from litellm.exceptions import RateLimitType
from litellm.integrations.custom_logger import CustomLogger
from litellm.llms.anthropic.chat.handler import ModelResponseIterator
from litellm.proxy import hooks, proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.agent_endpoints.agent_registry import global_agent_registry
from litellm.proxy.common_utils.proxy_rate_limit_error import ProxyRateLimitError
from litellm.types.llms.anthropic import AnthropicMessagesRequest
from litellm.types.utils import Usage
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

AUDIT = "/var/log/litellm/audit.log"
KEYS = {
    hashlib.sha256(key.encode()).hexdigest()
    for key in os.environ["CAGENT_CLIENT_KEYS"].replace(",", " ").split()
}
KEY_RPM = 600  # calls a minute with one client's key, in all its sessions together
SESSION_REQUIRED = True  # False: calls without an ID share one limit for each address
MAX_BODY = 32 * 1024 * 1024
BODY_SECONDS = 120  # how long a client may take to send its body
MAX_COUNTERS = 100_000  # LiteLLM needs two for each session, and three more for a minute

FORWARDS = {
    "https://api.openai.com/v1": "openai",
    "https://api.anthropic.com": "anthropic",
    "https://generativelanguage.googleapis.com": "google",
}
ID = "[A-Za-z0-9_-]{8,64}"
PATH = re.compile("(?:/[A-Za-z0-9/._~:@-]{0,255})?")
MODEL = "[A-Za-z0-9._:@-]{1,128}"  # LiteLLM gives a slash and an asterisk a meaning
# The open paths, and the fields that a body may have. LiteLLM takes settings from bodies: with
# custom_llm_provider a call costs nothing, and extra_headers reach the provider. So only the fields
# of the provider's API are allowed. Packages that come with LiteLLM list them.
PATHS = {
    "POST openai /v1/chat/completions": {
        *CompletionCreateParamsNonStreaming.__annotations__,
        "stream",
    },
    "POST openai /v1/embeddings": {*EmbeddingCreateParams.__annotations__},
    # A call in the background would end before its cost is known.
    "POST openai /v1/responses": {*ResponseCreateParamsNonStreaming.__annotations__, "stream"}
    - {"background"},
    "POST anthropic /v1/messages": {*AnthropicMessagesRequest.__annotations__, "service_tier"}
    - {"litellm_metadata", "speed"},  # LiteLLM has no price for fast answers of some models
    f"POST google /v1beta/models/({MODEL}):(?:streamG|g)enerateContent": {
        "contents",
        "systemInstruction",
        "tools",
        "toolConfig",
        "safetySettings",
        "generationConfig",
    },
}
# Other headers are LiteLLM's settings, or tell who the client is.
KEPT_HEADERS = ("accept", "anthropic-beta", "anthropic-version")

calls: dict[str, Call] = {}  # the running calls, by the ID that LiteLLM reports
audit = logging.getLogger("cagent.audit")
audit.propagate = False
audit.setLevel(logging.INFO)
audit.addHandler(WatchedFileHandler(AUDIT))  # opens a new file if logrotate has moved the old one


class Refusal(Exception):  # noqa: N818 - the gateway's answer, not an error of the program
    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        kinds = {403: "insufficient_quota", 429: "rate_limit_error", 502: "api_error"}
        kind = kinds.get(status, "invalid_request_error")
        self.answer = JSONResponse(
            {"error": {"message": message, "type": kind, "code": code}}, status, headers
        )


class Call:
    """A call to the gateway, with its line in the audit."""

    def __init__(self, scope: Scope) -> None:
        self.scope, self.headers = scope, Headers(scope=scope)
        self.id, self.began, self.priced = str(uuid.uuid4()), time.monotonic(), asyncio.Event()
        self.refusal: Refusal | None = None  # replaces LiteLLM's answer
        self.answered = False
        api_key = self.api_key()
        digest = hashlib.sha256(api_key.encode("latin-1")).hexdigest()
        self.key, self.is_client = digest[:16] if api_key else "", digest in KEYS
        session = self.root = self.id_in("x-cagent-session-id") or "(none)"
        if not session.startswith("("):
            self.root = self.id_in("x-cagent-root-session") or session
        markers = self.headers.getlist("x-cagent-forward")
        # The line has no key, no query, no body and no unknown marker. A path may have a key after
        # one of the signs that are not in PATH.
        self.line: dict[str, Any] = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "session": session,
            "root": self.root,
            "key": self.key,
            "client": (scope.get("client") or [""])[0],
            "provider": FORWARDS.get(markers[0].removesuffix("/"), "") if len(markers) == 1 else "",
            "model": self.headers.get("x-cagent-model", "")[:128],  # until the body is read
            "method": scope.get("method", "WEBSOCKET"),
            "path": PATH.findall(scope["path"])[0],
            "status": 500,
            "duration_ms": 0,
        }

    def api_key(self) -> str:
        """Return the client's key, or nothing. Clients of Google may send it in the query."""
        query = parse_qs(self.scope["query_string"].decode("latin-1"), encoding="latin-1")
        return (
            re.sub("^bearer( +|$)", "", self.headers.get("authorization", ""), flags=re.IGNORECASE)
            or self.headers.get("x-api-key")
            or self.headers.get("x-goog-api-key")
            or query.get("key", [""])[0]
        )

    def id_in(self, name: str) -> str:
        """Return the ID in a header, or "(malformed)", or nothing if there is none."""
        values = self.headers.getlist(name)
        if values in ([], [""]):
            return ""
        valid = len(values) == 1 and re.fullmatch(ID, values[0])
        return values[0] if valid else "(malformed)"

    async def body(self, receive: Receive) -> bytes:
        body = bytearray()
        async for piece in Request(self.scope, receive).stream():
            body += piece
            if len(body) > MAX_BODY:
                raise Refusal(413, "body_too_large", f"the body must have at most {MAX_BODY} bytes")
        return bytes(body)

    async def for_litellm(self, receive: Receive) -> tuple[Scope, bytes]:
        """Return the request and the body for LiteLLM. A client can't change settings in them."""
        provider = self.line["provider"]
        if not provider:
            message = "X-Cagent-Forward must be one URL that this gateway forwards to"
            raise Refusal(421, "unknown_forward", message)
        if not self.is_client:
            raise Refusal(401, "invalid_api_key", "the API key must be one of this gateway's")
        if SESSION_REQUIRED and self.root.startswith("("):
            message = "X-Cagent-Session-Id must be one ID, and X-Cagent-Root-Session may be one"
            raise Refusal(400, "missing_session_id", f"{message}: {ID}")
        called = f"{self.line['method']} {provider} {self.scope['path']}"
        matches = [
            (match, fields)
            for path, fields in PATHS.items()
            if (match := re.fullmatch(path, called))
        ]
        if not matches:
            raise Refusal(404, "unknown_path", f"this gateway has no such path for {provider}")
        match, fields = matches[0]
        try:
            document = json.loads(await asyncio.wait_for(self.body(receive), BODY_SECONDS))
            unknown = document.keys() - fields
            model = match[1] if match.groups() else document["model"]
            # No match is a TypeError.
            self.line["model"] = re.fullmatch(MODEL, model)[0]  # type: ignore[index]
        except asyncio.TimeoutError:
            message = f"the body must arrive in {BODY_SECONDS} seconds"
            raise Refusal(408, "request_timeout", message, connection="close") from None
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            message = "the body must be JSON with the name of a model"
            raise Refusal(400, "bad_request", message) from None
        if unknown:
            message = f"the body has parameters that are not open: {sorted(unknown)}"
            raise Refusal(400, "unknown_parameter", message)
        if not isinstance(document.get("stream", False), bool):
            raise Refusal(400, "bad_request", "stream must be true or false")
        document.pop("metadata", None)  # LiteLLM would look for a session in it
        # An ID is no credential. With another key it is another session. A sub-session spends what
        # its root has.
        whose = {"(none)": self.line["client"], "(malformed)": "all"}
        counted = f"{whose.get(self.root, self.key)}.{self.root}"
        kept = {name: value for name, value in self.headers.items() if name in KEPT_HEADERS}
        ours = {"x-litellm-call-id": self.id, "x-litellm-session-id": counted}
        ours |= {"content-type": "application/json", "host": "127.0.0.1"}
        headers = Headers({**kept, **ours}).raw
        scope = {**self.scope, "headers": headers, "query_string": b"", "cagent": self}
        return scope, json.dumps(document).encode()

    async def close(self) -> None:
        """Write the audit's line, once. LiteLLM reports the cost after the answer, or never."""
        with suppress(asyncio.TimeoutError):
            if self.id in calls and self.line["status"] == 200:
                await asyncio.wait_for(self.priced.wait(), 20)
        if calls.pop(self.id, None):
            self.line["duration_ms"] = round((time.monotonic() - self.began) * 1000)
            audit.info(json.dumps(self.line))


class Gateway:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"], scope["path"]) == (
            "http",
            "/health/liveliness",
        ):
            return await self.app(scope, receive, send)
        call = Call(scope)
        calls[call.id] = call

        async def passed_on(message: Message) -> None:
            if call.refusal:
                return  # drop LiteLLM's answer; ours follows
            if message["type"] == "http.response.start":
                call.answered, call.line["status"] = True, message["status"]
            elif not message.get("more_body"):
                await call.close()  # wait for the cost, so that the next call is checked with it
            await send(message)

        try:
            if scope["type"] == "websocket":  # LiteLLM has WebSockets
                call.line["status"] = 403
                return await send({"type": "websocket.close", "code": 1008})
            for_litellm, body = await call.for_litellm(receive)
            # LiteLLM does not learn that a client hangs up. It reads and charges the whole answer.
            requests: asyncio.Queue[Message] = asyncio.Queue()
            requests.put_nowait({"type": "http.request", "body": body})
            await self.app(for_litellm, requests.get, passed_on)
            if call.refusal:
                raise call.refusal
        except ClientDisconnect:
            call.line["status"] = 499  # as in nginx
        except Refusal as refusal:
            call.line["status"] = refusal.answer.status_code
            await call.close()
            await refusal.answer(scope, receive, send)
        finally:
            await call.close()


# mypy runs without LiteLLM.
class CallsSoFar(hooks.PROXY_MaxIterationsHandler):  # type: ignore[misc]
    """LiteLLM's check of a session's calls, which does not count this one."""

    # LiteLLM calls only hooks that the class itself has.
    async_pre_call_hook = hooks.PROXY_MaxIterationsHandler.async_pre_call_hook

    async def _increment_and_get(self, cache_key: str) -> Any:
        counter = hooks.PROXY_MaxBudgetPerSessionHandler._get_current_spend  # noqa: SLF001
        return await counter(self, cache_key) + 1


class Books(CustomLogger):  # type: ignore[misc]
    """LiteLLM calls these hooks. They set the provider, and get a call's cost or its limit."""

    async def async_pre_call_hook(self, *, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        # Not in the body, so that answers have the model's name as the client wrote it.
        line = calls[data["litellm_call_id"]].line
        return {**data, "model": f"{line['provider']}/{line['model']}"}

    async def async_log_success_event(self, kwargs: dict[str, Any], *_: Any, **__: Any) -> None:
        if call := calls.get(kwargs["litellm_call_id"]):
            entry = kwargs["standard_logging_object"]
            usage = entry["metadata"]["usage_object"] or {}
            details = usage.get("prompt_tokens_details") or {}
            call.line |= {
                "prompt_tokens": entry["prompt_tokens"],
                "completion_tokens": entry["completion_tokens"],
                "cached_tokens": details.get("cached_tokens") or 0,
                "cache_write_tokens": details.get("cache_write_tokens") or 0,
                "cost_usd": entry["response_cost"],
            }
            call.priced.set()

    async def async_log_failure_event(self, kwargs: dict[str, Any], *_: Any, **__: Any) -> None:
        if call := calls.get(kwargs["litellm_call_id"]):
            call.priced.set()

    async def async_post_call_failure_hook(
        self, *, request_data: dict[str, Any], original_exception: Exception, **_: Any
    ) -> None:
        if call := calls.get(request_data.get("litellm_call_id", "")):
            # Only the type: the text may have a prompt in it.
            call.line["error"] = type(original_exception).__name__
            call.priced.set()  # no cost will come
            match original_exception:
                case _ if call.answered:
                    pass  # a stream has broken off, and LiteLLM has said so in it
                case ProxyRateLimitError(
                    rate_limit_type=RateLimitType.BUDGET | RateLimitType.MAX_ITERATIONS
                ):
                    # LiteLLM would answer 429, and SDKs would repeat the call.
                    call.refusal = Refusal(
                        403, "session_budget_exceeded", "this session has spent its budget"
                    )
                case ProxyRateLimitError(headers=headers):
                    wait = (headers or {}).get("retry-after", "1")
                    message = "too many calls in this session or with this key"
                    call.refusal = Refusal(
                        429, "rate_limit_exceeded", message, **{"retry-after": wait}
                    )
                case _ if any(
                    isinstance(cause, httpx.TransportError)
                    for cause in causes_of(original_exception)
                ):
                    call.refusal = Refusal(
                        502, "provider_unreachable", "no answer from the provider"
                    )


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def add_usage(
    stream: ModelResponseIterator,
    anthropic_usage_chunk: Mapping[str, Any],  # LiteLLM passes it by this name
) -> Usage:
    """Add what an event of Anthropic's streams states to what earlier events have stated.

    LiteLLM would not count what the last event states, if only the first one has iterations.
    """
    known, usage = stream._cumulative_usage, anthropic_usage_chunk  # noqa: SLF001 - no public way
    if known.get("iterations") and "iterations" not in usage:
        more = {
            name: figure - (known.get(name) or 0)
            for name, figure in usage.items()
            if isinstance(figure, int)
        }
        usage = {**usage, "iterations": [*known["iterations"], more]}
    return litellm_adds_usage(stream, usage)


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:  # noqa: ARG001
    """Return the call's client and its limits for LiteLLM. Gateway has checked the key."""
    key, agent = request.scope["cagent"].key, global_agent_registry.get_agent_by_name("cagent")
    if agent is None:
        raise HTTPException(503, "agents: in config.yaml has no limits for cagent")
    return UserAPIKeyAuth(api_key=key, user_id=key, agent_id=agent.agent_id, rpm_limit=KEY_RPM)


# LiteLLM calls its hooks in this order. What a session has spent is checked first: a call that gets
# 403 must not use up the calls a minute of its key. Books is the last one, so a session is charged
# before its answer ends. The next call may be for another LiteLLM.
hooks.PROXY_HOOKS.update(calls_so_far=CallsSoFar, cagent=Books)
for name in list(hooks.PROXY_HOOKS):
    if name not in ("max_budget_per_session_limiter", "calls_so_far"):
        hooks.PROXY_HOOKS[name] = hooks.PROXY_HOOKS.pop(name)
litellm_adds_usage = ModelResponseIterator._handle_usage  # noqa: SLF001
ModelResponseIterator._handle_usage = add_usage  # noqa: SLF001
# By default, LiteLLM keeps 200 counters, and forgets what a session has spent if there are more.
counters = proxy_server.proxy_logging_obj.internal_usage_cache.dual_cache.in_memory_cache
counters.max_size_in_memory = MAX_COUNTERS
# num_retries is not for embeddings. LiteLLM would repeat them twice.
litellm.DEFAULT_MAX_RETRIES = 0
# Only the audit tells of calls. Queries may have Google's keys, and providers' errors repeat
# prompts.
logging.getLogger("uvicorn.access").disabled = True
logging.getLogger("uvicorn.error").addFilter(lambda record: "WebSocket" not in record.msg)
for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
# LiteLLM loads this module after its app has started. So its middleware must be built again.
proxy_server.app.middleware_stack = None
proxy_server.app.add_middleware(Gateway)
