"""Values that fit a JSON schema."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import reduce
from itertools import chain, islice, repeat
from operator import getitem, or_
from typing import Any

from cagent_session.testing.json_bodies import Document, either_case

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
    """

    def fill(part: Any, refs: tuple[str, ...] = ()) -> Any:
        part = part if isinstance(part, dict) else {}  # the schema true allows any value
        ref = part.get("$ref")
        alternatives = alternatives_in(part)
        for alternative in alternatives:
            with suppress(RecursionError):
                return fill(alternative, refs)
        if alternatives or ref in refs:
            raise RecursionError("the schema refers to itself without end")
        if ref:
            return fill(reduce(getitem, ref.split("/")[1:], schema), (*refs, ref))
        if not part.get("allOf"):
            return value_of_type(part, text, lambda inner: fill(inner, refs))
        values = [fill(each, refs) for each in [{**part, "allOf": None}, *part["allOf"]]]
        objects = [value for value in values if isinstance(value, dict)]
        if objects:
            return reduce(or_, objects)
        return next((value for value in values if value is not None), None)

    return fill({"type": "object", **schema})


def alternatives_in(schema: Document) -> list[Document]:
    """Return the schemas that a value may fit. The list is empty if there is no choice."""
    types = schema.get("type")
    if isinstance(types, list):
        return [{**schema, "type": each} for each in types]
    if schema.get("nullable"):
        return [{**schema, "nullable": False}, {"type": "null"}]
    alternatives = either_case(schema, "anyOf") or schema.get("oneOf") or []
    return [{**schema, "anyOf": None, "oneOf": None, **each} for each in alternatives]


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
