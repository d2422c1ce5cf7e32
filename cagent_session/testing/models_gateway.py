"""A models gateway on loopback, for tests and examples."""

from __future__ import annotations

import copy
import io
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from ssl import SSLContext
from typing import Any

from pytest_httpserver import HTTPServer
from requests.structures import CaseInsensitiveDict
from werkzeug import Request, Response
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler

from cagent_session.headers import FORWARD_HEADER, SESSION_ID_HEADER
from cagent_session.session_id import validate_session_id
from cagent_session.testing.answers import default_answer, error_answer
from cagent_session.testing.bedrock import AWS_EVENT_STREAM, documents_in
from cagent_session.testing.calls import (
    MAX_ROWS,
    Call,
    Usage,
    description_of,
    number_of_calls,
    session_of,
    table_of,
)
from cagent_session.testing.json_bodies import EVENT_STREAM, JSON_LINES
from cagent_session.testing.tokens import tokens_in

_POLL_SECONDS = 0.005  # how long stop() waits at most; socketserver's default is half a second

_NO_MARKER = (
    f"the request has no marker, the header {FORWARD_HEADER}, so it is not for a models gateway. "
    "Add cagent_session.gateway_headers(forward) to its headers, or call "
    "cagent_session.instrument(gateway, headers=gateway_headers(forward)) in this process. forward "
    "is the URL of your provider, such as https://api.openai.com/v1"
)
_NO_SESSION = (
    f"the request has no {SESSION_ID_HEADER}, and this gateway requires a session. Send it inside "
    "cagent_session.session_scope(session_id), after cagent_session.instrument(gateway), or with a "
    "client that was given to cagent_session.mount(), or that has a session_id_hook()"
)
_REMEDY = (
    "Make each call inside session_scope(), or in a function decorated with in_session().\n"
    "A web application needs SessionMiddleware. Test clients call it in no session.\n"
    "Call instrument(gateway) first, or use a client with mount() or session_id_hook().\n"
    'To find a call, use instrument(gateway, missing="raise"). Then the call itself fails.'
)


class ModelsGateway(HTTPServer):
    """A models gateway on loopback that records every call and bills it to its session.

    It is a :class:`pytest_httpserver.HTTPServer` that answers each request in a thread of its
    own. It needs no pytest: use it as a context manager, or call ``start()`` and ``stop()``.

    A request without the marker, ``X-Cagent-Forward``, or with a blank one is answered 400. For
    any other request, the handlers that were registered with ``expect_request()`` and similar
    methods come first. If none matches, the gateway answers a POST as the provider would. The
    path may have any prefix. The answer is streamed if the request asks for that:

    - OpenAI's ``/chat/completions``, ``/responses``, ``/completions`` and ``/embeddings``, also
      for the providers that use OpenAI's format: Azure, DashScope, Groq, Mistral, Together and
      Voyage; for Mistral also ``/fim/completions`` and ``/agents/completions``, and for
      Databricks ``/invocations``
    - Anthropic's ``/v1/messages`` and ``/v1/messages/count_tokens``
    - Bedrock's ``/converse`` and ``/converse-stream``, and for bodies in Anthropic's format
      ``/invoke`` and ``/invoke-with-response-stream``; ``/invoke`` also for Titan's embeddings
    - Gemini's ``:generateContent``, ``:streamGenerateContent``, ``:countTokens``,
      ``:embedContent`` and ``:batchEmbedContents``
    - Ollama's ``/api/chat``, ``/api/generate`` and ``/api/embed``
    - Cohere's ``/v2/chat``
    - DashScope's own ``/text-generation/generation``

    If the request offers tools and holds no result of a tool, the answer calls the first tool,
    or the tool that the request names. If the request requires a call, the answer calls a tool
    even after a result: the second tool after one result, and so on. If the answer calls no
    tool and the request asks for JSON, the answer is JSON that fits the schema. Otherwise the
    answer repeats the last message.

    JSON, and the arguments of a call, hold only what the schema requires: the last user message
    for a string, 0 or the minimum for a number, and the first one of several values or schemas.

    OpenAI states the usage of a streamed completion only with ``include_usage``. Without it, the
    gateway states the usage with the last choice. An embedding has length 1, and 8 dimensions
    unless the request asks for another number. It depends on the text alone. A token is a word
    between white space. Any other request is answered 404, and ``check_assertions()`` fails.

    :param host: the address to listen on.
    :param port: 0 to 65535; 0 for any free one.
    :param ssl_context: for https.

    >>> import requests, cagent_session
    >>> headers = cagent_session.gateway_headers("https://api.openai.com/v1")
    >>> message = {"role": "user", "content": "Hello!"}
    >>> question = {"model": "gpt-4o", "messages": [message]}
    >>> with ModelsGateway() as gateway:
    ...     url = f"{gateway.url}/v1/chat/completions"
    ...     with cagent_session.mount(requests.Session(), gateway.url) as http:
    ...         with cagent_session.session_scope("sess-1"):
    ...             answer = http.post(url, json=question, headers=headers)
    >>> answer.json()["choices"][0]["message"]["content"]
    'You said: Hello!'
    >>> gateway.usage()
    {'sess-1': Usage(calls=1, prompt_tokens=1, completion_tokens=3)}
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, ssl_context: SSLContext | None = None
    ) -> None:
        super().__init__(host, port, ssl_context, threaded=True)
        self.no_handler_status_code = 404
        self._lock = threading.Lock()
        self._calls: dict[Request, Call] = {}
        self._session_required = False
        self._refused: list[Call] = []  # because they had no session

    @property
    def url(self) -> str:
        """The URL of the started gateway, without a trailing slash."""
        return self.url_for("/").removesuffix("/")

    @property
    def calls(self) -> list[Call]:
        """A copy of the list of all calls, in order of arrival.

        It includes the calls that were refused and those that have no answer yet.
        """
        with self._lock:
            return list(self._calls.values())

    def calls_in(self, session_id: str | uuid.UUID | None) -> list[Call]:
        """Return the calls of one session; for ``None``, the calls without a session ID."""
        wanted = None if session_id is None else str(session_id)
        return [call for call in self.calls if call.session_id == wanted]

    def usage(self) -> dict[str | None, Usage]:
        """Return what each session is billed, by session ID.

        The key of the calls without a session ID is ``None``. A refused call (one that was
        answered with a status of 400 or more) is not billed. The numbers of tokens are those in
        the answers. The answers of your own handlers may state them in the format of any
        provider that the gateway answers for.
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
        """From now on, answer calls in no session 400. No handler of yours gets them.

        After such a call :meth:`check_sessions` fails, even if the code under test has ignored
        the error. The fixture ``models_gateway`` calls it at the end of the test.

        :param required: ``False`` accepts such calls again. :meth:`check_sessions` still fails
            for those that were refused before.
        """
        self._session_required = required

    def check_sessions(self) -> None:
        """Fail if a call was refused because it was in no session.

        Only calls since the last check, or since :meth:`clear`, count.

        :raises AssertionError: with a list of these calls: method, path and marker.
        """
        __tracebackhide__ = True
        with self._lock:
            refused, self._refused = self._refused, []
        if refused:
            raise AssertionError(
                f"{number_of_calls(len(refused))} reached the models gateway in no session:"
                f"{table_of([description_of(call) for call in refused])}\n{_REMEDY}"
            )

    def check_assertions(self) -> None:
        """Run :meth:`check_sessions` and the checks of :class:`pytest_httpserver.HTTPServer`."""
        self.check_sessions()
        super().check_assertions()

    def assert_attributed(self, session_id: str | uuid.UUID, calls: int | None = None) -> None:
        """Assert that the session has made *calls* calls, and that no call had no session.

        :param session_id: as :func:`cagent_session.session_scope` takes it.
        :param calls: how many calls the session must have made, including refused ones. Other
            sessions may have made calls as well. ``None``: all calls must be the session's, and
            there must be at least one.
        :raises AssertionError: with a list of all calls, and a mark before each call that is not
            the session's.
        :raises InvalidSessionId: if *session_id* is not a session ID.
        :raises ValueError: if *calls* is negative.
        """
        __tracebackhide__ = True
        wanted = validate_session_id(session_id)
        if calls is not None and calls < 0:
            raise ValueError(f"calls must be 0 or more, got {calls}")
        made = self.calls
        own = sum(call.session_id == wanted for call in made)
        unattributed = sum(not call.session_id for call in made)
        if calls is None:
            expected, is_met = "every call", 0 < own == len(made)
        else:
            expected, is_met = number_of_calls(calls), own == calls and not unattributed
        if is_met:
            return
        rows = [
            (" " if call.session_id == wanted else ">", session_of(call), *description_of(call))
            for call in made
        ]
        if len(rows) > MAX_ROWS:
            rows.sort(key=lambda row: row[0], reverse=True)  # marked calls first
        raise AssertionError(
            f"expected {expected} in session {wanted}, got {own}; "
            f"calls in all: {len(made)}, in no session: {unattributed}{table_of(rows)}"
        )

    def clear(self) -> None:
        """Forget the calls, and all that a :class:`pytest_httpserver.HTTPServer` forgets.

        This does not change whether a session is required.
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
        """Answer *request*. If the client stopped within the body, it is not counted as a call."""
        try:
            request.get_data()
        except OSError:
            return error_answer(request, 400, "the body is incomplete")
        return super().application(request)

    def dispatch(self, request: Request) -> Response:
        """Answer *request*, and record the call and its answer."""
        headers = CaseInsensitiveDict(request.headers.items())
        session_id = headers.get(SESSION_ID_HEADER) or None
        forward = headers.get(FORWARD_HEADER)
        call = Call(request.method, request.path, headers, session_id, forward, request.get_data())
        refused = self._session_required and session_id is None
        with self._lock:
            self._calls[request] = call
            if refused:
                self._refused.append(call)
        try:
            if not (forward and forward.strip()):
                response = error_answer(request, 400, _NO_MARKER)
            elif refused:
                response = error_answer(request, 400, _NO_SESSION)
            else:
                response = super().dispatch(request)
        except Exception as error:
            status = (isinstance(error, HTTPException) and error.code) or 500
            self._update_call(request, status=status)
            raise
        self._update_call(request, status=response.status_code)
        if response.is_streamed:
            recorded = copy.copy(response)  # a handler may answer with the same object again
            recorded.response = self._record_tokens(request, response)
            return recorded
        for _ in self._record_tokens(request, response):
            pass
        return response

    def respond_nohandler(self, request: Request, extra_message: str = "") -> Response:
        """Return the default answer, or 404."""
        # After a call in the wrong order, an HTTPServer refuses all later calls.
        answer = None if self.permanently_failed else default_answer(request)
        if answer:
            return answer
        # HTTPServer's assertion shows the request. The query may hold a key, so leave it out.
        body = io.BytesIO(request.get_data())
        environ = {**request.environ, "QUERY_STRING": "", "wsgi.input": body}
        super().respond_nohandler(Request(environ), extra_message)
        call = f"{request.method} {request.path}"
        message = f"the models gateway has no answer to {call}: register one by expect_request()"
        return error_answer(request, self.no_handler_status_code, message)

    def _record_tokens(self, request: Request, response: Response) -> Iterator[bytes]:
        """Yield the pieces of *response*. Record the tokens of each one before it is sent."""

        def parts_of(data: bytes) -> list[bytes]:
            if response.mimetype == AWS_EVENT_STREAM:
                return documents_in(data)
            has_lines = response.mimetype in (EVENT_STREAM, JSON_LINES)
            return data.split(b"\n") if has_lines else [data]

        rest = b""
        for piece in response.iter_encoded():
            documents = parts_of(rest + piece)
            for document in documents:
                self._update_call(request, **tokens_in(document.removeprefix(b"data:")))
            rest = documents[-1]
            yield piece

    def _update_call(self, request: Request, **changes: Any) -> None:
        with self._lock:
            if request in self._calls:  # clear() may have removed it
                self._calls[request] = replace(self._calls[request], **changes)


class _QuietHandler(WSGIRequestHandler):
    """A request handler that writes no log.

    The calls are recorded. A log would also show the queries, which may hold keys, in the output
    of each failing test.
    """

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass
