"""JSON in the bodies of requests and responses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import Any

from werkzeug import Request, Response
from werkzeug.exceptions import BadRequest

Document = dict[str, Any]

EVENT_STREAM = "text/event-stream"
JSON_LINES = "application/x-ndjson"


def parsed(body: bytes) -> Any:
    """Return the value of *body*, or ``None`` if it is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def json_object(request: Request) -> Document:
    """Return the body of *request*, which must be a JSON object."""
    body = parsed(request.get_data())
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def required_list(body: Document, name: str) -> list[Any]:
    """Return the list *name* of *body*, which must not be empty."""
    items = body.get(name)
    if not isinstance(items, list) or not items:
        raise BadRequest(f"{name} must be a list with at least one item")
    return items


def either_case(document: Document, name: str) -> Any:
    """Return the value of *name*, a name in camelCase.

    Google accepts the name in snake_case as well.
    """
    snake_case = re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)
    return document.get(name, document.get(snake_case))


def json_response(document: Document, status: int = 200) -> Response:
    """Return a response with one document."""
    return Response(json.dumps(document), status, mimetype="application/json")


def json_array(documents: Iterable[Document]) -> Response:
    """Return a response with one JSON array. Each item is sent as soon as it is made."""
    separators = chain("[", repeat(",\n"))
    items = (next(separators) + json.dumps(document) for document in documents)
    return Response(chain(items, "]"), mimetype="application/json")


def json_lines(documents: Iterable[Document]) -> Response:
    """Return a response with one document a line. Each line is sent as soon as it is made."""
    return Response((f"{json.dumps(document)}\n" for document in documents), mimetype=JSON_LINES)


def event_stream(documents: Iterable[Document], event: str = "", end: str = "") -> Response:
    """Return a response with server-sent events. Each event is sent as soon as it is made.

    :param documents: the data of the events. A document's ``type`` is the name of its event.
    :param event: the name of an event whose document has no type.
    :param end: a text to send after the last event.
    """

    def events() -> Iterator[str]:
        for document in documents:
            name = document.get("type", event)
            yield (f"event: {name}\n" if name else "") + f"data: {json.dumps(document)}\n\n"

    return Response(chain(events(), [end] if end else []), mimetype=EVENT_STREAM)
