"""What can't LiteLLM's configuration say? Who calls, in which session, which provider is meant, and the audit.

config.yaml names this module, and LiteLLM loads it as it starts. It puts a :class:`Gateway` in front of LiteLLM, which
then gets only calls of known clients on one of the :data:`PATHS`, with the fields of the provider's own API. The limits
per session and the prices are LiteLLM's; the numbers are in config.yaml.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from logging.handlers import WatchedFileHandler
from typing import Any, NamedTuple

import httpx
import litellm
from fastapi import HTTPException, Request
from litellm.exceptions import RateLimitType
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.agent_endpoints.agent_registry import global_agent_registry
from litellm.proxy.common_utils.proxy_rate_limit_error import ProxyRateLimitError
from litellm.types.llms.anthropic import AnthropicMessagesRequest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

AUDIT = "/var/log/litellm/audit.jsonl"
CLIENT_KEYS = os.environ["CAGENT_CLIENT_KEYS"].replace(",", " ").split()
KEY_RPM = 600  # calls a minute with one client's key, whatever sessions it names
MAX_BODY = 32 * 1024 * 1024
MAX_COUNTERS = 100_000  # that LiteLLM keeps: about five for a session

FORWARDS = {
    b"https://api.openai.com/v1": "openai",
    b"https://api.anthropic.com": "anthropic",
    b"https://generativelanguage.googleapis.com": "google",
}


class Path(NamedTuple):
    """A path that is open: to which provider, under which prefix LiteLLM has its models, and a body's fields."""

    provider: str
    prefix: str
    matches: Callable[[str], re.Match[str] | None]
    fields: set[str]


# LiteLLM takes settings of its own from a client's body: with custom_llm_provider a call costs nothing, extra_headers
# go to the provider. So only the provider's fields pass, as the packages list them that come with LiteLLM.
CHAT = {*CompletionCreateParamsNonStreaming.__annotations__, "stream"}
EMBEDDINGS = {*EmbeddingCreateParams.__annotations__}
RESPONSES = {*ResponseCreateParamsNonStreaming.__annotations__, "stream"} - {"background"}  # it ends before its bill
MESSAGES = {*AnthropicMessagesRequest.__annotations__, "service_tier"} - {"litellm_metadata"}
CONTENT = {"contents", "systemInstruction", "tools", "toolConfig", "safetySettings", "generationConfig"}
MODEL = "[A-Za-z0-9._:@-]{1,128}"  # a slash or an asterisk would mean something to LiteLLM
PATHS = [
    Path("openai", "openai", re.compile("/v1/chat/completions").fullmatch, CHAT),
    Path("openai", "openai", re.compile("/v1/embeddings").fullmatch, EMBEDDINGS),
    Path("openai", "openai", re.compile("/v1/responses").fullmatch, RESPONSES),
    Path("anthropic", "anthropic", re.compile("/v1/messages").fullmatch, MESSAGES),
    Path("google", "gemini", re.compile(f"/v1beta/models/({MODEL}):(?:streamG|g)enerateContent").fullmatch, CONTENT),
]
KEPT_HEADERS = (b"accept", b"anthropic-beta", b"anthropic-version")
PROBE = "/health/liveliness"  # for whoever watches the gateway: it names no session, and is not audited

client_keys = [hashlib.sha256(key.encode()).hexdigest() for key in CLIENT_KEYS]
valid_model = re.compile(MODEL).fullmatch
valid_session = re.compile(rb"[A-Za-z0-9_-]{8,64}").fullmatch

calls: dict[str, Call] = {}  # those in hand, by ID
audit = logging.getLogger("cagent.audit")
audit.propagate = False
audit.setLevel(logging.INFO)
audit.addHandler(WatchedFileHandler(AUDIT))  # opens the file anew when logrotate has moved it away


class Refusal(Exception):  # noqa: N818 - reads as what it is
    """An answer of the gateway's own, in the form of OpenAI's errors."""

    def __init__(self, status: int, code: str, message: str, retry_after: str = "") -> None:
        super().__init__(message)
        self.status = status
        kind = "rate_limit_error" if status == 429 else "server_error" if status > 500 else "invalid_request_error"
        self.body = json.dumps({"error": {"message": message, "type": kind, "code": code}}).encode()
        self.headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self.body))]
        if retry_after:
            self.headers.append((b"retry-after", retry_after.encode()))


class Call:
    """A call on its way through LiteLLM, and what its audit line will say."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.client_receive, self.client_send = scope, receive, send
        self.client = (scope.get("client") or ("",))[0]
        self.id = str(uuid.uuid4())  # by which LiteLLM reports on the call
        self.time, self.began = datetime.now(timezone.utc), time.monotonic()
        self.status = 0
        self.result: dict[str, float | str] = {}
        self.settled = asyncio.Event()
        self.refusal: Refusal | None = None  # which takes the place of LiteLLM's
        self.unread, self.refused, self.closed = True, False, False

        self.model = b"".join(self.values(b"x-cagent-model")).decode("latin-1")  # until the body tells
        markers = self.values(b"x-cagent-forward")
        self.provider = FORWARDS.get(markers[0].removesuffix(b"/"), "") if len(markers) == 1 else ""
        sessions = self.values(b"x-cagent-session-id")
        self.session = "(none)" if sessions in ([], [b""]) else "(malformed)"
        if len(sessions) == 1 and valid_session(sessions[0]):
            self.session = sessions[0].decode()
        presented = [value[7:] for value in self.values(b"authorization") if value[:7].lower() == b"bearer "]
        presented += self.values(b"x-api-key") + self.values(b"x-goog-api-key")
        digests = [hashlib.sha256(value).hexdigest() for value in presented]
        known = [key for key in client_keys for digest in digests if hmac.compare_digest(key, digest)]
        self.key = known[0][:8] if known else ""

    def values(self, name: bytes) -> list[bytes]:
        return [value for header, value in self.scope["headers"] if header == name]

    async def run(self, litellm_app: ASGIApp) -> None:
        """Hand the call to LiteLLM, or refuse it."""
        try:
            path = self.find_path()
            scope, body = self.rewrite(path, await self.read_body())
            messages: list[Message] = [{"type": "http.request", "body": body}]

            async def receive() -> Message:
                # Then nothing: a client can't escape its bill by hanging up. The provider's answer is read to its end.
                return messages.pop() if messages else await asyncio.get_running_loop().create_future()

            await litellm_app(scope, receive, self.send)
        except Refusal as refusal:
            await self.read_body(keep=False)  # whoever still sends would not hear the answer
            await self.answer(refusal)

    def find_path(self) -> Path:
        """Return the path that is called.

        :raises Refusal: where LiteLLM is not to see the call.
        """
        if not self.provider:
            raise Refusal(421, "unknown_forward", "X-Cagent-Forward must be one URL that this gateway forwards to")
        if not self.key:
            raise Refusal(401, "invalid_api_key", "the API key must be one of this gateway's")
        if self.session.startswith("(") and proxy_server.general_settings.get("missing_session_id") == "reject":
            message = "X-Cagent-Session-Id must be one ID of 8 to 64 letters, digits, hyphens and underscores"
            raise Refusal(400, "missing_session_id", message)
        for path in PATHS:
            if path.provider == self.provider and path.matches(self.scope["path"]) and self.scope["method"] == "POST":
                return path
        raise Refusal(404, "unknown_path", f"this gateway has no such path for {self.provider}")

    async def read_body(self, *, keep: bool = True) -> bytes:
        pieces, size = [], 0
        while self.unread and size <= MAX_BODY:
            message = await self.client_receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self.unread = bool(message.get("more_body"))
            size += len(message.get("body", b""))
            pieces += [message.get("body", b"")] if keep else []
        if keep and size > MAX_BODY:
            raise Refusal(413, "body_too_large", f"the body must have at most {MAX_BODY} bytes")
        return b"".join(pieces)

    def rewrite(self, path: Path, body: bytes) -> tuple[Scope, bytes]:
        """Return the request and the body for LiteLLM: nothing in them is a client's word on LiteLLM's own matters.

        :raises Refusal: for a body that is not the provider's.
        """
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise Refusal(400, "invalid_json", "the body must be JSON") from None
        if not isinstance(document, dict):
            raise Refusal(400, "invalid_json", "the body must be a JSON object")
        match: Any = path.matches(self.scope["path"])
        model = match[1] if match.groups() else document.get("model")
        if not isinstance(model, str) or not valid_model(model):
            raise Refusal(400, "invalid_model", "the model must be the provider's name of one")
        self.model, self.litellm_model = model, f"{path.prefix}/{model}"
        if unknown := document.keys() - path.fields:
            raise Refusal(400, "unknown_parameter", f"the body has parameters that are not open: {sorted(unknown)}")
        if not isinstance(document.get("stream", False), bool):
            raise Refusal(400, "invalid_parameter", "stream must be true or false")
        document.pop("metadata", None)  # LiteLLM would find a session in it
        body = json.dumps(document).encode()
        headers = [(name, value) for name, value in self.scope["headers"] if name in KEPT_HEADERS]
        headers += [
            (b"host", b"127.0.0.1"),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-litellm-call-id", self.id.encode()),
            (b"x-litellm-session-id", self.counted_as.encode()),
        ]
        return {**self.scope, "query_string": b"", "headers": headers, "cagent": self}, body

    @property
    def counted_as(self) -> str:
        """The session that LiteLLM counts for. An ID is no credential: with another key it is another session."""
        if self.session == "(none)":
            return f"(none) {self.client}"
        return self.session if self.session == "(malformed)" else f"{self.key}.{self.session}"

    async def send(self, message: Message) -> None:
        """Pass on a piece of LiteLLM's answer at once; only the end waits, so that the bill is there before it."""
        if self.refused:
            return
        if self.refusal and message["type"] == "http.response.start":
            self.refused = True
            await self.answer(self.refusal)
            return
        self.status = message.get("status", self.status)
        last = message["type"] == "http.response.body" and not message.get("more_body")
        if last:
            await self.close()
        await self.client_send(message)

    async def answer(self, refusal: Refusal) -> None:
        self.status = refusal.status
        await self.close()
        await self.client_send({"type": "http.response.start", "status": refusal.status, "headers": refusal.headers})
        await self.client_send({"type": "http.response.body", "body": refusal.body})

    async def close(self) -> None:
        """Write the audit line, once, when LiteLLM has booked the cost: it does so beside the answer, in a moment."""
        if self.closed:
            return
        self.closed = True
        try:
            if self.status == 200:
                await asyncio.wait_for(self.settled.wait(), 5)
        except asyncio.TimeoutError:
            pass  # the line has no cost, then
        finally:
            audit.info(self.line())

    def line(self) -> str:
        """Return the audit line: JSON whatever the client sent, with no key, query, body or unknown marker."""
        record = {
            "time": self.time.isoformat(timespec="milliseconds"),
            "session": self.session,
            "key": self.key,
            "client": self.client,
            "provider": self.provider,
            "model": self.model[:128],
            "method": self.scope.get("method", "WEBSOCKET"),
            "path": self.scope["path"][:256],
            "status": self.status,
            "duration_ms": round((time.monotonic() - self.began) * 1000),
            **self.result,
        }
        return json.dumps(record)


class Gateway:
    """Stands between the clients and LiteLLM."""

    def __init__(self, litellm_app: ASGIApp) -> None:
        self.litellm_app = litellm_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.litellm_app(scope, receive, send)
            return
        if scope["path"] == PROBE and scope.get("method") == "GET":
            await self.litellm_app({**scope, "headers": [], "query_string": b""}, receive, send)
            return
        call = Call(scope, receive, send)
        calls[call.id] = call
        try:
            if scope["type"] == "http":
                await call.run(self.litellm_app)
            else:  # LiteLLM has WebSockets, too
                call.status = 403
                await send({"type": "websocket.close", "code": 1008})
        except ClientDisconnect:
            call.status = 499  # as nginx has it
        finally:
            call.status = call.status or 500
            await call.close()
            del calls[call.id]


class Books(CustomLogger):  # type: ignore[misc] # where mypy runs there is no LiteLLM
    """Tells LiteLLM the provider, and hears from it what a call cost or which limit it has met."""

    async def async_pre_call_hook(self, *, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        # Here, and not in the body, so that answers name the model as the client did.
        return {**data, "model": calls[data["litellm_call_id"]].litellm_model}

    async def async_log_success_event(self, kwargs: dict[str, Any], *_: Any, **__: Any) -> None:
        if call := calls.get(kwargs["litellm_call_id"]):
            entry = kwargs["standard_logging_object"]
            call.result = {name: entry[name] for name in ("prompt_tokens", "completion_tokens")}
            call.result["cost_usd"] = entry["response_cost"]
            call.settled.set()

    async def async_log_failure_event(self, kwargs: dict[str, Any], *_: Any, **__: Any) -> None:
        if call := calls.get(kwargs["litellm_call_id"]):
            call.settled.set()

    async def async_post_call_failure_hook(
        self, *, request_data: dict[str, Any], original_exception: Exception, **_: Any
    ) -> None:
        call = calls.get(request_data.get("litellm_call_id", ""))
        if call is None:
            return
        call.result = {"error": type(original_exception).__name__}  # no more: its text may quote a prompt
        if not isinstance(original_exception, ProxyRateLimitError):
            for cause in causes(original_exception):
                if isinstance(cause, httpx.TransportError):
                    status = 504 if isinstance(cause, httpx.TimeoutException) else 502
                    call.refusal = Refusal(status, "provider_unreachable", "the provider does not answer")
        elif original_exception.rate_limit_type in (RateLimitType.BUDGET, RateLimitType.MAX_ITERATIONS):
            # LiteLLM answers 429 here, too, and SDKs would try again and again.
            call.refusal = Refusal(403, "session_budget_exceeded", "this session has spent its budget")
        else:
            wait = (original_exception.headers or {}).get("retry-after", "1")
            call.refusal = Refusal(429, "rate_limit_exceeded", "too many calls in this session or with this key", wait)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:  # noqa: ARG001 - the gateway has checked it
    """Tell LiteLLM whose call this is, and which limits it has."""
    call = request.scope.get("cagent")
    agent = global_agent_registry.get_agent_by_name("cagent")
    if call is None or agent is None:
        raise HTTPException(503, "agents: in config.yaml has no limits for cagent")
    return UserAPIKeyAuth(api_key=call.key, user_id=call.key, agent_id=agent.agent_id, rpm_limit=KEY_RPM)


litellm.logging_callback_manager.add_litellm_callback(Books())
# LiteLLM keeps 200 counts at most, and forgets what a session has spent when there are more.
proxy_server.proxy_logging_obj.internal_usage_cache.dual_cache.in_memory_cache.max_size_in_memory = MAX_COUNTERS
# num_retries does not reach embeddings, which LiteLLM would send again twice.
litellm.DEFAULT_MAX_RETRIES = 0
# No log but the audit has what came with a call: queries hold Google's keys, and providers' errors quote prompts.
logging.getLogger("uvicorn.access").disabled = True
logging.getLogger("uvicorn.error").addFilter(lambda record: "WebSocket" not in record.msg)
for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
# Here, as LiteLLM loads its configuration, it is too late for add_middleware().
proxy_server.app.middleware_stack = Gateway(proxy_server.app.middleware_stack)
