"""Which calls reach a models gateway, and whose are they? A real gateway on loopback, for tests and examples."""

from __future__ import annotations

import copy
import io
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ssl import SSLContext
from typing import Any
from urllib.parse import quote

from requests.structures import CaseInsensitiveDict

from cagent_session.gateway import FORWARD_HEADER, SESSION_ID_HEADER, without_secrets
from cagent_session.session_id import validate_session_id

try:
    from pytest_httpserver import HTTPServer
    from werkzeug import Request, Response
    from werkzeug.exceptions import HTTPException
    from werkzeug.serving import WSGIRequestHandler

    from cagent_session.answers import EVENT_STREAM, NDJSON, default_answer, parsed, refusal
except ImportError as error:
    raise ImportError(f'{error}: cagent_session.testing needs pip install "cagent-session[testing]"') from None

_POLL_SECONDS = 0.005  # what stopping costs; socketserver's default is half a second
_FIGURES = {  # where an answer, or an event of one, tells its tokens; the last place that does counts
    "usage.total_tokens": "prompt_tokens",  # of Voyage's embeddings, which have no other
    "usage.prompt_tokens": "prompt_tokens",
    "usage.completion_tokens": "completion_tokens",
    "usage.input_tokens": "prompt_tokens",
    "usage.output_tokens": "completion_tokens",
    "response.usage.input_tokens": "prompt_tokens",  # OpenAI's event response.completed
    "response.usage.output_tokens": "completion_tokens",
    "message.usage.input_tokens": "prompt_tokens",  # Anthropic's event message_start, the only one with the prompt's
    "message.usage.output_tokens": "completion_tokens",
    "usage.tokens.input_tokens": "prompt_tokens",  # Cohere
    "usage.tokens.output_tokens": "completion_tokens",
    "delta.usage.tokens.input_tokens": "prompt_tokens",  # Cohere's event message-end
    "delta.usage.tokens.output_tokens": "completion_tokens",
    "usageMetadata.promptTokenCount": "prompt_tokens",  # Gemini
    "usageMetadata.candidatesTokenCount": "completion_tokens",
    "prompt_eval_count": "prompt_tokens",  # Ollama
    "eval_count": "completion_tokens",
}
_UNMARKED = (
    f"the request has no {FORWARD_HEADER} marker, so it is not for a models gateway: "
    'send it with headers=cagent_session.gateway_headers("https://api.openai.com/v1"), or your provider\'s URL'
)
_NO_SESSION = (
    f"the request has no {SESSION_ID_HEADER}, and this gateway requires a session: "
    "send it in cagent_session.session_scope(session_id), through cagent_session.mount() or a hook"
)
_LISTED = 20  # calls, in the message of a failure
_PATH = "/:@"  # what a path may show as it is


@dataclass(frozen=True)
class Call:
    """A call that reached the gateway, and what became of it.

    ``path`` is percent-decoded and has no query. ``headers`` takes names in any case; what was sent twice is joined
    by a comma. ``status`` is 0 until there is an answer. The tokens are what the answer says, and 0 until it does.
    """

    method: str
    path: str
    headers: CaseInsensitiveDict[str] = field(repr=False)  # keys are in it
    session_id: str | None
    forward: str | None = field(repr=False)  # by hand, with a password
    body: bytes = field(repr=False)
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def json(self) -> Any:
        """The parsed body, or ``None`` where it is not JSON."""
        return parsed(self.body)


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

    Where none matches, it answers a POST as the provider would, under any prefix, plain or streamed:

    - OpenAI's ``/chat/completions``, ``/responses``, ``/completions`` and ``/embeddings``, and who speaks as it does:
      Azure, DashScope, Groq, Mistral, Together, Voyage; at Mistral ``/fim/completions`` and ``/agents/completions``,
      too, and at Databricks ``/invocations``
    - Anthropic's ``/v1/messages`` and ``/v1/messages/count_tokens``
    - Gemini's ``:generateContent``, ``:streamGenerateContent``, ``:countTokens``, ``:embedContent`` and
      ``:batchEmbedContents``
    - Ollama's ``/api/chat``, ``/api/generate`` and ``/api/embed``
    - Cohere's ``/v2/chat``
    - DashScope's own ``/text-generation/generation``

    If tools are offered and no message is a tool's result yet, it calls the first tool, or the one that is asked for by
    name. If a call is required, it calls one after a result, too: the second after one, and so on. Otherwise, if JSON
    is asked for, it answers JSON that fits the schema, and if not, it echoes the last message. In JSON and in the
    arguments of a call it gives what is required: the last user message for a string, 0 or the minimum for a number, of
    several values or schemas the first.

    Without ``include_usage``, where OpenAI tells no usage, a streamed completion tells it with the last choice. An
    embedding is of length 1, has 8 dimensions unless others are asked for, and depends on the text alone. A token is a
    white-space-separated word. Anything else is answered 404, and fails ``check_assertions()``.

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
        self._session_required = False
        self._refused: list[Call] = []  # for want of a session

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
        say, those of registered handlers too, in the words of any provider that the gateway answers for.
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

    def require_session(self, required: bool = True) -> None:
        """Refuse the calls in no session from now on: answer them 400, before any handler is asked.

        :meth:`check_sessions` fails for each, also where the code under test has swallowed the error. The fixture
        ``models_gateway`` does so at the end of the test.

        :param required: ``False`` takes it back; what was refused stays refused.
        """
        self._session_required = required

    def check_sessions(self) -> None:
        """Fail if calls were refused for want of a session, since the last check or :meth:`clear`.

        :raises AssertionError: with a list of them: method, path and forward.
        """
        __tracebackhide__ = True
        with self._lock:
            refused, self._refused = self._refused, []
        if refused:
            raise AssertionError(
                f"{_number(len(refused))} reached the models gateway in no session:"
                f"{_table([_described(call) for call in refused])}\n"
                "Make each in session_scope() or under in_session(), through mount() or session_id_hook(); "
                'missing="raise" shows where'
            )

    def check_assertions(self) -> None:
        """Fail as :meth:`check_sessions` does, or for what else a :class:`pytest_httpserver.HTTPServer` has noted."""
        self.check_sessions()
        super().check_assertions()

    def assert_attributed(self, session_id: str | uuid.UUID, calls: int | None = None) -> None:
        """Assert that the session has made *calls* calls, and that none was made in no session.

        :param session_id: as :func:`cagent_session.session_scope` takes it.
        :param calls: how many calls the session has made, refused ones included; other sessions may have made others.
            ``None``: all calls are the session's, and there is one at least.
        :raises AssertionError: with a list of all calls, a mark before those that are not the session's.
        :raises InvalidSessionId: for what is no session ID.
        :raises ValueError: for a negative number.
        """
        __tracebackhide__ = True
        wanted = validate_session_id(session_id)
        if calls is not None and calls < 0:
            raise ValueError(f"calls must be 0 or more, got {calls}")
        made = self.calls
        own = sum(call.session_id == wanted for call in made)
        if calls is None:
            expected, met = "every call", 0 < own == len(made)
        else:
            expected, met = _number(calls), own == calls and all(call.session_id for call in made)
        if not met:
            rows = [(" " if call.session_id == wanted else ">", _whose(call), *_described(call)) for call in made]
            if len(rows) > _LISTED:
                rows.sort(key=lambda row: row[0], reverse=True)  # what is marked, first
            nobodys = sum(not call.session_id for call in made)
            got = f"{own} of {len(made)}" + f", and {nobodys} in no session" * bool(nobodys)
            raise AssertionError(f"expected {expected} in session {wanted}, got {got}{_table(rows)}")

    def clear(self) -> None:
        """Forget the calls, and all that a :class:`pytest_httpserver.HTTPServer` forgets.

        A session stays required, if it is.
        """
        super().clear()
        self.no_handler_status_code = 404
        with self._lock:
            self._calls, self._refused = {}, []

    def thread_target(self) -> None:
        """Serve until stopped."""
        server: Any = self.server
        server.RequestHandlerClass = _QuietHandler
        server.serve_forever(_POLL_SECONDS)

    def application(self, request: Request) -> Response:
        """Take *request* in; one whose client hung up while it sent the body is no call."""
        try:
            request.get_data()
        except OSError:
            return refusal(request, 400, "the body is incomplete")
        return super().application(request)

    def dispatch(self, request: Request) -> Response:
        """Answer *request*, and record it and its answer."""
        headers = CaseInsensitiveDict(request.headers.items())
        session_id, forward = headers.get(SESSION_ID_HEADER) or None, headers.get(FORWARD_HEADER)
        call = Call(request.method, request.path, headers, session_id, forward, request.get_data())
        refused = self._session_required and session_id is None
        with self._lock:
            self._calls[request] = call
            self._refused += [call] * refused
        try:
            if not (forward and forward.strip()):
                response = refusal(request, 400, _UNMARKED)
            elif refused:
                response = refusal(request, 400, _NO_SESSION)
            else:
                response = super().dispatch(request)
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
        # A call out of the order that the test expects has just made the parent fail for good.
        answer = None if self.permanently_failed else default_answer(request)
        if answer:
            return answer
        # Without the query, which may hold a key: the assertion that fails shows the request.
        environ = {**request.environ, "QUERY_STRING": "", "wsgi.input": io.BytesIO(request.get_data())}
        super().respond_nohandler(Request(environ), extra_message)
        message = f"the gateway has no handler for {request.method} {request.path}"
        return refusal(request, self.no_handler_status_code, message)

    def _metered(self, request: Request, response: Response) -> Iterator[bytes]:
        """Yield the pieces of *response*, each once the usage in it is recorded."""
        by_line = response.mimetype in (EVENT_STREAM, NDJSON)
        rest = b""
        for piece in response.iter_encoded():
            rest += piece
            documents = rest.split(b"\n") if by_line else [rest]
            for document in documents:
                self._update(request, **_usage_in(document.removeprefix(b"data:")))
            rest = documents[-1]
            yield piece

    def _update(self, request: Request, **changes: Any) -> None:
        with self._lock:
            if request in self._calls:  # not if it was cleared meanwhile
                self._calls[request] = replace(self._calls[request], **changes)


class _QuietHandler(WSGIRequestHandler):
    """Logs no requests, which are recorded: their queries, which may hold a key, would be in every failing test."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def _number(calls: int) -> str:
    return "1 call" if calls == 1 else f"{calls} calls"


def _whose(call: Call) -> str:
    return f"in {call.session_id}" if call.session_id else "in no session"


def _described(call: Call) -> tuple[str, ...]:
    forward = "without a forward, so not gateway-bound: see gateway_headers()"
    if call.forward:
        forward = "forward " + (without_secrets(call.forward) or "that can't be read")
    return call.method, quote(call.path, _PATH), forward


def _table(rows: list[tuple[str, ...]]) -> str:
    """Align *rows*, the first of them if they are many."""
    shown = rows[:_LISTED]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in shown]
    if len(rows) > len(shown):
        lines.append(f"and {len(rows) - len(shown)} more")
    return "".join(f"\n  {line}" for line in lines)


def _usage_in(document: bytes) -> dict[str, int]:
    """Return the tokens that *document* tells: an answer, an event of one, or a list of events, Gemini's."""
    document = document.strip()
    if document.startswith(b"[") and not document.endswith(b"]"):
        return {}  # a list of which there is more to come: to parse it with every item would take ever longer
    answer = parsed(document)
    told: dict[str, int] = {}
    for event in answer if isinstance(answer, list) else [answer]:
        for path, figure in _FIGURES.items():
            value = event
            for name in path.split("."):
                value = value.get(name) if isinstance(value, dict) else None
            if isinstance(value, int):
                told[figure] = value
    return told
