"""Values that fit a JSON schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import reduce
from itertools import chain, islice, repeat
from operator import getitem
from typing import Any

from cagent_session.testing.json_bodies import Document, either_case

# How large a value may be: its characters, and for each part of the schema that is used, the number
# of its keywords and what it takes to read it. Reaching the limit takes less than a second.
MAX_SIZE = 10_000_000
SIZE_OF_PART = 500

# Strings for the formats of JSON schema.
FORMATTED_STRINGS = {
    "date-time": "2000-01-01T00:00:00Z",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "email": "user@example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
# google-generativeai sends numbers instead of the names of JSON schema's types.
OLD_GOOGLE_TYPES = {
    1: "string",
    2: "number",
    3: "integer",
    4: "boolean",
    5: "array",
    6: "object",
}


def fitting_value(schema: Document, text: str) -> Any:
    """Return a value that fits *schema*.

    A string is *text*, unless the schema does not allow it. An object has only what is required.

    :raises RecursionError: if the schema refers to itself without end.
    :raises ValueError: if the value would be too large. A short schema may ask for any size.
    """
    left = MAX_SIZE

    def spend(size: int) -> None:
        nonlocal left
        left -= size
        if left < 0:
            raise ValueError("the schema asks for a value that is too large")

    def fill(part: Any, refs: tuple[str, ...] = ()) -> Any:
        part = part if isinstance(part, dict) else {}  # the schema true allows any value
        spend(SIZE_OF_PART + len(part))
        ref = part.get("$ref")
        has_alternatives = False
        for alternative in alternatives_in(part):
            has_alternatives = True
            with suppress(RecursionError):
                return fill(alternative, refs)
        if has_alternatives or ref in refs:
            raise RecursionError("the schema refers to itself without end")
        if ref:
            return fill(reduce(getitem, ref.split("/")[1:], schema), (*refs, ref))
        if not part.get("allOf"):
            left_before = left
            value = value_of_type(part, text, lambda inner: fill(inner, refs))
            if left == left_before:  # it has no inner values
                spend(len(str(value)))
            return value
        values = [fill(each, refs) for each in [{**part, "allOf": None}, *part["allOf"]]]
        objects = [value for value in values if isinstance(value, dict)]
        if objects:
            return dict(chain.from_iterable(each.items() for each in objects))
        return next((value for value in values if value is not None), None)

    return fill({"type": "object", **schema})


def alternatives_in(schema: Document) -> Iterator[Document]:
    """Yield the schemas that a value may fit. There is none if there is no choice."""
    types = schema.get("type")
    if isinstance(types, list):
        return ({**schema, "type": each} for each in types)
    if schema.get("nullable"):
        return iter([{**schema, "nullable": False}, {"type": "null"}])
    alternatives = either_case(schema, "anyOf") or schema.get("oneOf") or []
    return ({**schema, "anyOf": None, "oneOf": None, **each} for each in alternatives)


def value_of_type(schema: Document, text: str, fill: Callable[[Any], Any]) -> Any:
    """Return a value of the type of *schema*.

    :param fill: returns a value for an inner schema, that of a property or an item.
    """
    kind = schema.get("type", "object" if "properties" in schema else "")
    kind = OLD_GOOGLE_TYPES.get(kind, str(kind).lower())
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if allowed:
        return allowed[0]
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: fill(properties.get(name)) for name in schema.get("required") or []}
    if kind == "array":
        items = chain(schema.get("prefixItems") or [], repeat(schema.get("items")))
        least_items = int(either_case(schema, "minItems") or 0)
        return [fill(item) for item in islice(items, least_items)]
    number = max(schema.get("minimum", 0), schema.get("exclusiveMinimum", -1) + 1)
    string = FORMATTED_STRINGS.get(schema.get("format", ""), text)
    return {"string": string, "integer": number, "number": number, "boolean": False}.get(kind)
