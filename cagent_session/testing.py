"""Which calls reach a models gateway, and whose are they? A real gateway on loopback, for tests and examples."""

from __future__ import annotations

import copy
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from ssl import SSLContext
from typing import Any

from requests.structures import CaseInsensitiveDict

from cagent_session.gateway import FORWARD_HEADER, SESSION_ID_HEADER

try:
    from pytest_httpserver import HTTPServer
    from werkzeug import Request, Response
    from werkzeug.exceptions import BadRequest, HTTPException
except ImportError as error:
    raise ImportError(f'{error}: cagent_session.testing needs pip install "cagent-session[testing]"') from None

Answer = Callable[[Request], Response]

_POLL_SECONDS = 0.02  # what stopping costs; socketserver's default is half a second
_EVENT_STREAM = "text/event-stream"
_FIGURES = {
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
}
_NEUTRAL = {"integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}  # for JSON schema's other types
_UNMARKED = (
    f"the request has no {FORWARD_HEADER} marker, so it is not for a models gateway: "
    'send it with headers=cagent_session.gateway_headers("https://api.openai.com/v1"), or your provider\'s URL'
)
_default_answers: dict[str, Answer] = {}


@dataclass(frozen=True)
class Call:
    """A call that reached the gateway, and what became of it.

    ``path`` is percent-decoded and has no query. ``headers`` takes names in any case; what was sent twice is joined
    by a comma. ``status`` is 0 until there is an answer. The tokens are what the answer's ``usage`` says, and 0 until
    that is sent.
    """

    method: str
    path: str
    headers: CaseInsensitiveDict[str] = field(repr=False)  # keys are in it
    session_id: str | None
    forward: str | None
    body: bytes = field(repr=False)
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def json(self) -> Any:
        """The parsed body, or ``None`` where it is not JSON."""
        return _parsed(self.body)


@dataclass(frozen=True)
class Usage:
    """What a session is billed."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


class ModelsGateway(HTTPServer):
    """A models gateway on loopback that records every call and bills it to its session.

    It is a :class:`pytest_httpserver.HTTPServer`, threaded, and needs no pytest: a context manager, or ``start()`` and
    ``stop()``. A request whose marker, ``X-Cagent-Forward``, is missing or blank is answered 400. Then the handlers
    are asked that were registered with ``expect_request()`` and its like.

    Where none matches, it answers a POST of OpenAI's chat completions, plain or streamed, under any prefix. If tools
    are offered and no message is a tool's result yet, it calls the first tool, with the last user message for each
    required string; otherwise it echoes the last message. A token is a white-space-separated word. Anything else is
    answered 404, and fails ``check_assertions()``.

    :param host: the address to listen on.
    :param port: 0 to 65535; 0 for any free one.
    :param ssl_context: for https.

    >>> import requests, cagent_session
    >>> headers = cagent_session.gateway_headers("https://api.openai.com/v1")
    >>> question = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}
    >>> with ModelsGateway() as gateway, cagent_session.mount(requests.Session(), gateway.url) as http:
    ...     with cagent_session.session_scope("sess-1"):
    ...         answer = http.post(f"{gateway.url}/v1/chat/completions", json=question, headers=headers)
    >>> answer.json()["choices"][0]["message"]["content"]
    'You said: Hello!'
    >>> gateway.usage()
    {'sess-1': Usage(calls=1, prompt_tokens=1, completion_tokens=3)}
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, ssl_context: SSLContext | None = None) -> None:
        super().__init__(host, port, ssl_context, threaded=True)
        self.no_handler_status_code = 404
        self._lock = threading.Lock()
        self._calls: dict[Request, Call] = {}

    @property
    def url(self) -> str:
        """The URL of the gateway, once it is started, without a trailing slash."""
        return self.url_for("/").removesuffix("/")

    @property
    def calls(self) -> list[Call]:
        """A copy of all calls in order of arrival, with those that were refused or are still being answered."""
        with self._lock:
            return list(self._calls.values())

    def calls_in(self, session_id: str | uuid.UUID | None) -> list[Call]:
        """Return the calls of one session; for ``None``, those with no session ID."""
        wanted = None if session_id is None else str(session_id)
        return [call for call in self.calls if call.session_id == wanted]

    def usage(self) -> dict[str | None, Usage]:
        """Return what each session is billed, by session ID; ``None`` is for the calls with none.

        A call that was refused (answered with a status from 400 on) is on no bill. The tokens are what the answers
        say, those of registered handlers too: ``usage``, of prompt and completion tokens or input and output tokens.
        """
        bill: dict[str | None, Usage] = {}
        for call in self.calls:
            if 0 < call.status < 400:
                so_far = bill.get(call.session_id, Usage())
                bill[call.session_id] = Usage(
                    so_far.calls + 1,
                    so_far.prompt_tokens + call.prompt_tokens,
                    so_far.completion_tokens + call.completion_tokens,
                )
        return bill

    def clear(self) -> None:
        """Forget the calls, and all that a :class:`pytest_httpserver.HTTPServer` forgets."""
        super().clear()
        self.no_handler_status_code = 404
        with self._lock:
            self._calls = {}

    def thread_target(self) -> None:
        """Serve until stopped."""
        server: Any = self.server
        server.serve_forever(_POLL_SECONDS)

    def application(self, request: Request) -> Response:
        """Take *request* in; one whose client hung up while it sent the body is no call."""
        try:
            request.get_data()
        except OSError:
            return _refusal(400, "the body is incomplete")
        return super().application(request)

    def dispatch(self, request: Request) -> Response:
        """Answer *request*, and record it and its answer."""
        headers = CaseInsensitiveDict(request.headers.items())
        session_id, forward = headers.get(SESSION_ID_HEADER) or None, headers.get(FORWARD_HEADER)
        call = Call(request.method, request.path, headers, session_id, forward, request.get_data())
        with self._lock:
            self._calls[request] = call
        try:
            response = super().dispatch(request) if forward and forward.strip() else _refusal(400, _UNMARKED)
        except Exception as error:
            self._update(request, status=(isinstance(error, HTTPException) and error.code) or 500)
            raise
        self._update(request, status=response.status_code)
        if response.is_streamed:
            metered = copy.copy(response)  # a handler may answer with the same object again
            metered.response = self._metered(request, response)
            return metered
        for _ in self._metered(request, response):
            pass
        return response

    def respond_nohandler(self, request: Request, extra_message: str = "") -> Response:
        """Give the default answer, or 404."""
        answer = next((answer for end, answer in _default_answers.items() if request.path.endswith(end)), None)
        # A call out of the order that the test expects has just made the parent fail for good.
        if answer and request.method == "POST" and not self.permanently_failed:
            try:
                return answer(request)
            except BadRequest as error:
                return _refusal(400, str(error.description))
        super().respond_nohandler(request, extra_message)
        return _refusal(self.no_handler_status_code, f"the gateway has no handler for {request.method} {request.path}")

    def _metered(self, request: Request, response: Response) -> Iterator[bytes]:
        """Yield the pieces of *response*, each once the usage in it is recorded."""
        rest = b""
        for piece in response.iter_encoded():
            rest += piece
            documents = rest.split(b"\n") if response.mimetype == _EVENT_STREAM else [rest]
            for document in documents:
                self._update(request, **_usage_in(document.removeprefix(b"data:")))
            rest = documents[-1]
            yield piece

    def _update(self, request: Request, **changes: Any) -> None:
        with self._lock:
            if request in self._calls:  # not if it was cleared meanwhile
                self._calls[request] = replace(self._calls[request], **changes)


def _usage_in(document: bytes) -> dict[str, int]:
    """Return the tokens that *document* tells, an answer or one event of it."""
    answer = _parsed(document)
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return {}
    return {figure: usage[name] for name, figure in _FIGURES.items() if isinstance(usage.get(name), int)}


def _parsed(document: bytes) -> Any:
    try:
        return json.loads(document)
    except (ValueError, RecursionError):
        return None


def _json_object(request: Request) -> dict[str, Any]:
    body = _parsed(request.get_data())
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def _json_response(document: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(document), status, mimetype="application/json")


def _event_stream(documents: Iterable[dict[str, Any]]) -> Response:
    """Return server-sent events, each sent when it is there, that end as OpenAI's do."""

    def events() -> Iterator[str]:
        for document in documents:
            yield f"data: {json.dumps(document)}\n\n"
        yield "data: [DONE]\n\n"

    return Response(events(), mimetype=_EVENT_STREAM)


def _refusal(status: int, message: str) -> Response:
    """Return an error in the shape of OpenAI's."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return _json_response({"error": error}, status)


def _answers_post_to(end: str) -> Callable[[Answer], Answer]:
    """Make a function the default answer to a POST whose path has this *end*; its ``BadRequest`` becomes a 400."""

    def register(answer: Answer) -> Answer:
        _default_answers[end] = answer
        return answer

    return register


@_answers_post_to("/chat/completions")
def _chat_completion(request: Request) -> Response:
    """Speak https://platform.openai.com/docs/api-reference/chat."""
    body = _json_object(request)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list of at least one message")
    try:
        message = _chat_message(body, [(message.get("role"), _chat_text(message)) for message in messages])
        prompt_tokens = sum(len(_words(_chat_text(message))) for message in messages)
        include_usage = (body.get("stream_options") or {}).get("include_usage")
    except (AttributeError, LookupError, TypeError) as error:
        raise BadRequest(f"the messages, the tools or the stream options are malformed: {error!r}") from error
    calls = message.get("tool_calls", [])
    finish_reason = "tool_calls" if calls else "stop"
    completion_tokens = len(_words(calls[0]["function"]["arguments"] if calls else message["content"]))
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.get("model", "")}
    if not body.get("stream"):
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return _json_response({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    def chunks() -> Iterator[dict[str, Any]]:
        for delta in _chat_deltas(message):
            yield {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}], "usage": usage}
        if include_usage:
            yield {"choices": [], "usage": usage}

    return _event_stream({**head, "object": "chat.completion.chunk", **chunk} for chunk in chunks())


def _chat_message(body: dict[str, Any], turns: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the assistant's message: a call of the first tool offered, or an echo."""
    if body.get("tools") and body.get("tool_choice") != "none" and "tool" not in dict(turns):
        function = body["tools"][0]["function"]
        schema = function.get("parameters") or {}
        properties, asked = schema.get("properties") or {}, dict(turns).get("user", "")
        arguments = {name: _argument(properties.get(name) or {}, asked) for name in schema.get("required") or []}
        called = {"name": function["name"], "arguments": json.dumps(arguments)}
        call = {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": called}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    role, text = turns[-1]
    return {"role": "assistant", "content": f"{'The tool said' if role == 'tool' else 'You said'}: {text}"}


def _argument(schema: dict[str, Any], text: str) -> Any:
    """Return a value for a tool's parameter: *text* where that fits."""
    if schema.get("enum"):
        return schema["enum"][0]
    kind: Any = schema.get("type")
    values: dict[Any, Any] = {**_NEUTRAL, "string": text}
    return values.get(kind[0] if isinstance(kind, list) else kind)


def _chat_text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    return " ".join(part.get("text") or "" for part in content)


def _chat_deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the pieces of a streamed *message*: the role, then word by word."""
    calls = message.get("tool_calls", [])
    yield {"role": "assistant", "content": None if calls else ""}
    for word in _words(message["content"] or ""):
        yield {"content": word}
    for call in calls:
        yield {"tool_calls": [{**call, "index": 0, "function": {**call["function"], "arguments": ""}}]}
        for word in _words(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": word}}]}


def _words(text: str) -> list[str]:
    """Return the words of *text*, each with the white space that follows it."""
    return re.findall(r"\S+\s*", text)
