"""A models gateway on loopback, for tests and examples."""

from __future__ import annotations

import copy
import io
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ssl import SSLContext
from typing import Any, Literal
from urllib.parse import unquote

from pytest_httpserver import HTTPServer
from requests.structures import CaseInsensitiveDict
from werkzeug import Request, Response
from werkzeug.exceptions import ClientDisconnected, HTTPException

from cagent_session.gateway import Gateway
from cagent_session.header_names import HeaderNames
from cagent_session.headers import FORWARD_HEADER, SESSION_ID_HEADER
from cagent_session.session_id import InvalidSessionId, validate_session_id
from cagent_session.testing.answers import default_answer, error_answer
from cagent_session.testing.calls import (
    MAX_ROWS,
    Call,
    Usage,
    billed_by,
    description_of,
    number_of_calls,
    session_of,
    table_of,
)
from cagent_session.testing.documents import Documents
from cagent_session.testing.serving import HEADERS, Handler, start_serving
from cagent_session.testing.tokens import NUMBERS, TokenCounter

_INCOMPLETE = "cagent_session.incomplete"  # in the WSGI environment: whether the body is

_NO_MARKER = (
    "the request has no marker, the header {marker}, so it is not for a models gateway. Add "
    "gateway.route(provider).headers to its headers, or call cagent_session.instrument(gateway, "
    "headers=gateway.route(provider).headers) in this process. provider is the name of your "
    'provider, such as "openai". gateway is {gateway!r}: your code must name the same headers'
)
_NO_SESSION = (
    "the request has no {session_header}, and this gateway requires a session. Send it inside "
    "cagent_session.session_scope(session_id), after cagent_session.instrument(gateway), or with a "
    "client that was given to cagent_session.mount(), or that has a session_id_hook(). gateway is "
    "{gateway!r}: your code must name the same headers"
)
_MALFORMED = (
    "the request's session ID, or that of its root session, is malformed, and this gateway "
    "requires a session. An ID is sent once, and has 1 to 256 visible ASCII characters without "
    "spaces. gateway is {gateway!r}"
)
_REMEDY = (
    "Make each call inside session_scope(), or in a function decorated with in_session().\n"
    "A web application needs SessionMiddleware. Test clients call it in no session.\n"
    "Call instrument(gateway) first, or use a client with mount() or session_id_hook().\n"
    'To find a call, use instrument(gateway, missing="raise"). Then the call itself fails.'
)
_OTHER_NAMES = "\nThis gateway reads other headers than docker-agent's: gateway is {gateway!r}"


class ModelsGateway(HTTPServer):
    """A models gateway on loopback that records every call and bills it to its session.

    It is a :class:`pytest_httpserver.HTTPServer` that answers each request in a thread of its
    own. It needs no pytest: use it as a context manager, or call ``start()`` and ``stop()``.

    A request without the marker or with a blank one is answered 400, unless the gateway has no
    marker. For any other request, the handlers that were registered with ``expect_request()`` and
    similar methods come first. If none matches, the gateway answers a POST as the provider would.
    The path may have any prefix. The answer is streamed if the request asks for that:

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
    between white space. A malformed request is answered 400, and so is a schema that asks for too
    large a value, and a request with more than 2048 texts. Any other request is answered 404, and
    ``check_assertions()`` fails.

    :param host: the address to listen on.
    :param port: 0 to 65535; 0 for any free one.
    :param ssl_context: for https.
    :param session_header: the name of the header that carries the ID of the session. This
        parameter and the next three are those of :class:`cagent_session.Gateway`. Clients must use
        the same names: give them :attr:`gateway`.
    :param marker: the name of the marker, or ``None``: every request is for the gateway.
    :param root_header: the name of the header that carries the ID of the root session, or ``None``.
        The default is ``X-Cagent-Root-Session``. A :class:`cagent_session.Gateway` sends no such
        header by default: clients that are given :attr:`gateway` do.
    :param parent_header: the name of the header that carries the ID of the session in which a
        sub-session was opened, or ``None``.
    :raises ValueError: if a name is not that of a header, or if two names are the same.
    :raises TypeError: if a name is not a :class:`str`.

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
    >>> gateway.usage() == {"sess-1": Usage(calls=1, prompt_tokens=1, completion_tokens=3)}
    True
    """

    def __init__(  # noqa: PLR0913 - a name for each header
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: SSLContext | None = None,
        *,
        session_header: str = SESSION_ID_HEADER,
        marker: str | None = FORWARD_HEADER,
        root_header: str | None = "X-Cagent-Root-Session",
        parent_header: str | None = None,
    ) -> None:
        names = HeaderNames(
            session_header=session_header,
            marker=marker,
            root_header=root_header,
            parent_header=parent_header,
        )
        super().__init__(host, port, ssl_context, threaded=True)
        self.no_handler_status_code = 404
        self._names: dict[str, Any] = names.given
        self._lock = threading.Lock()
        self._calls: dict[object, Call] = {}  # by request
        self._session_required = False
        self._refused: list[Call] = []  # because they had no session

    @property
    def url(self) -> str:
        """The URL of the started gateway, without a trailing slash."""
        return self.url_for("/").removesuffix("/")

    @property
    def gateway(self) -> Gateway:
        """The started gateway as a :class:`cagent_session.Gateway`: its URL and its names.

        Give it to ``instrument``, ``mount`` and hooks. ``gateway.route("openai")`` is what a client
        needs to call a provider.
        """
        return Gateway(self.url, **self._names)

    @property
    def calls(self) -> list[Call]:
        """A copy of the list of all calls, in order of arrival.

        It includes the calls that were refused and those that have no answer yet.
        """
        with self._lock:
            return list(self._calls.values())

    def calls_in(self, session_id: str | uuid.UUID | None) -> list[Call]:
        """Return the calls of one session; for ``None``, those with no or a malformed ID."""
        wanted = None if session_id is None else str(session_id)
        return [call for call in self.calls if call.session_id == wanted]

    def usage(self, by: Literal["session", "root"] = "session") -> dict[str | None, Usage]:
        """Return what each session is billed, by session ID.

        The key of the calls without a session ID, or with a malformed one, is ``None``. A refused
        call (one that was answered with a status of 400 or more) is not billed. The numbers of
        tokens are those in the answers to POST requests. The answers of your own handlers may
        state them in the format of any provider that the gateway answers for.

        :param by: ``"session"``, or ``"root"`` to bill each root session for its own calls and
            those of its sub-sessions. Either way, each call is billed once. See :class:`Call` for
            the root of a call.
        :raises ValueError: for any other value of *by*.
        """
        billed = billed_by(by)
        bill: dict[str | None, Usage] = {}
        for call in self.calls:
            if 0 < call.status < 400:
                so_far = bill.get(billed(call), Usage())
                tokens = {name: getattr(so_far, name) + getattr(call, name) for name in NUMBERS}
                bill[billed(call)] = Usage(so_far.calls + 1, **tokens)
        return bill

    def require_session(self, required: bool = True) -> None:
        """From now on, answer calls in no session 400. No handler of yours gets them.

        A call with a malformed ID is in no session.

        After such a call :meth:`check_sessions` fails, even if the code under test has ignored
        the error. The fixture ``models_gateway`` calls it at the end of the test.

        :param required: ``False`` accepts such calls again. :meth:`check_sessions` still fails
            for those that were refused before.
        """
        self._session_required = required

    def check_sessions(self) -> None:
        """Fail if a call was refused because it was in no session.

        Only calls since the last check, or since :meth:`clear`, count.

        A call also counts if the server below could not read its head: its session is not known.

        :raises AssertionError: with a list of these calls: method, path and marker, and the
            session if one of them has a malformed ID.
        """
        __tracebackhide__ = True
        with self._lock:
            refused, self._refused = self._refused, []
        if refused:
            usual = {"session_header": SESSION_ID_HEADER, "marker": FORWARD_HEADER}
            remedy = _REMEDY if usual.items() <= self._names.items() else _REMEDY + _OTHER_NAMES
            rows = self._rows_of(refused)
            if any(call.has_malformed_id for call in refused):
                sessions = map(session_of, refused)
                rows = [(of, *row) for of, row in zip(sessions, rows, strict=True)]
            raise AssertionError(
                f"{number_of_calls(len(refused))} reached the models gateway in no session:"
                f"{table_of(rows)}\n{self._text(remedy)}"
            )

    def check_assertions(self) -> None:
        """Run :meth:`check_sessions` and the checks of :class:`pytest_httpserver.HTTPServer`."""
        self.check_sessions()
        super().check_assertions()

    def assert_attributed(
        self,
        session_id: str | uuid.UUID,
        calls: int | None = None,
        by: Literal["session", "root"] = "session",
    ) -> None:
        """Assert that the session has made *calls* calls, and that no call had no session.

        :param session_id: as :func:`cagent_session.session_scope` takes it.
        :param calls: how many calls the session must have made, including refused ones. Other
            sessions may have made calls as well. ``None``: all calls must be the session's, and
            there must be at least one.
        :param by: ``"root"`` also counts the calls of its sub-sessions as the session's.
        :raises AssertionError: with a list of all calls, and a mark before each call that is not
            the session's.
        :raises InvalidSessionId: if *session_id* is not a session ID.
        :raises ValueError: if *calls* is negative, and for any other value of *by*.
        """
        __tracebackhide__ = True
        wanted, billed = validate_session_id(session_id), billed_by(by)
        if calls is not None and calls < 0:
            raise ValueError(f"calls must be 0 or more, got {calls}")
        made = self.calls
        own = sum(billed(call) == wanted for call in made)
        unattributed = sum(not call.session_id for call in made)
        if calls is None:
            expected, is_met = "every call", 0 < own == len(made)
        else:
            expected, is_met = number_of_calls(calls), own == calls and not unattributed
        if is_met:
            return
        marks = [" " if billed(call) == wanted else ">" for call in made]
        rows = [
            (mark, session_of(call), *row)
            for mark, call, row in zip(marks, made, self._rows_of(made), strict=True)
        ]
        if len(rows) > MAX_ROWS:
            rows.sort(key=lambda row: row[0], reverse=True)  # marked calls first
        raise AssertionError(
            f"expected {expected} in {'root ' * (by == 'root')}session {wanted}, got {own}; "
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

    def start(self) -> None:
        """Start the gateway.

        :raises pytest_httpserver.HTTPServerError: if it is running.
        """
        start_serving(self, self._record_refusal)

    def stop(self) -> None:
        """Stop the gateway. Wait up to 5 seconds until the calls in flight are answered.

        These are the calls whose request has arrived.
        """
        super().stop()

    def application(self, request: Request) -> Response:
        """Answer *request*. If its body is incomplete, the answer is 400."""
        try:
            request.get_data()
        except (OSError, ClientDisconnected):
            no_body = {"wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0", _INCOMPLETE: True}
            request = Request({**request.environ, **no_body})
        return super().application(request)

    def dispatch(self, request: Request) -> Response:
        """Answer *request*, and record the call and its answer."""
        call = self._call_of(request)
        refused = self._record(request, call)
        try:
            if _INCOMPLETE in request.environ:
                response = error_answer(request, 400, "the body is incomplete")
            elif self._names["marker"] and not (call.forward and call.forward.strip()):
                response = error_answer(request, 400, self._text(_NO_MARKER))
            elif refused:
                problem = _MALFORMED if call.has_malformed_id else _NO_SESSION
                response = error_answer(request, 400, self._text(problem))
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

    def _call_of(self, request: Request) -> Call:
        """Return the call that *request* makes."""
        headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()
        for name, value in request.environ[HEADERS]:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        names = self._names
        session_id = root = parent = None
        is_malformed = False
        try:
            session_id, root = (
                _id_in(request, names[of]) for of in ("session_header", "root_header")
            )
        except InvalidSessionId:
            is_malformed = True
        if session_id:
            root = root or session_id
            with suppress(InvalidSessionId):
                parent = _id_in(request, names["parent_header"])
        else:
            root = None
        return Call(
            request.method,
            request.path,
            headers,
            session_id,
            root,
            parent,
            headers.get(names["marker"]) if names["marker"] else None,
            request.get_data(),
            has_malformed_id=is_malformed,
        )

    def _record_refusal(self, handler: Handler, status: int) -> None:
        """Record a request whose head the server could not read."""
        words = handler.raw_requestline.decode("latin-1").split()
        method, target = [*words, "", ""][:2]
        path = unquote(target.partition("?")[0])
        headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()
        self._record(handler, Call(method, path, headers, None, None, None, None, b"", status))

    def _record(self, request: object, call: Call) -> bool:
        """Record the *call* of *request*. Return whether it is refused for want of a session."""
        refused = self._session_required and call.session_id is None
        with self._lock:
            self._calls[request] = call
            if refused:
                self._refused.append(call)
        return refused

    def _rows_of(self, calls: list[Call]) -> list[tuple[str, ...]]:
        """Return the rows of *calls* in a table, all with the same number of columns."""
        rows = [description_of(call, self._names["marker"]) for call in calls]
        width = max(map(len, rows), default=0)
        return [(*row, *[""] * (width - len(row))) for row in rows]

    def _text(self, message: str) -> str:
        """Return *message* with this gateway and its names of headers."""
        return message.format(**self._names, gateway=self.gateway)

    def _record_tokens(self, request: Request, response: Response) -> Iterator[bytes]:
        """Yield the pieces of *response*. Record the tokens of each one before it is sent."""
        found, counter = Documents(response.mimetype or ""), TokenCounter()

        def record(documents: list[bytes]) -> None:
            if documents and request.method == "POST":  # other requests make no tokens
                for document in documents:
                    counter.add(document)
                self._update_call(request, **counter.numbers)

        sent = 0
        for piece in response.iter_encoded():
            record(found.add(piece))
            sent += len(piece)
            if sent == response.content_length:  # the client does not wait for more
                record(found.end())
            yield piece
        record(found.end())

    def _update_call(self, request: Request, **changes: Any) -> None:
        with self._lock:
            if request in self._calls:  # clear() may have removed it
                self._calls[request] = replace(self._calls[request], **changes)


def _id_in(request: Request, header: str | None) -> str | None:
    """Return the session ID in *header*, or ``None`` if there is no such header.

    :raises InvalidSessionId: if it was sent twice, or if its value is not a session ID.
    """
    wanted = (header or "").lower()
    values = [value for name, value in request.environ[HEADERS] if name.lower() == wanted]
    if len(values) > 1:
        raise InvalidSessionId("the header was sent twice")
    return validate_session_id(values[0]) if values else None
