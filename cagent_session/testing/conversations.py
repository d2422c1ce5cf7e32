"""The contents of a request: the turns of its conversation, its tools and its output format."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from werkzeug.exceptions import BadRequest

from cagent_session.testing.json_bodies import Document, either_case

Turn = tuple[Any, str]  # a role and a text; the role of a tool's result is "tool"
Tool = tuple[str, Document | None]  # a name, and the JSON schema of the parameters

MAX_TEXTS = 2048  # in one request for embeddings or completions, as at OpenAI

# google-generativeai sends numbers instead of the names of the modes of a tool choice.
OLD_GOOGLE_MODES = {2: "any", 3: "none"}


class Tools(NamedTuple):
    """The tools that may be called, and whether one must be called."""

    offered: list[Tool]
    required: bool = False


NO_TOOLS = Tools([])


def allowed_tools(tools: list[Tool], choice: Any) -> Tools:
    """Return the tools that a tool *choice* allows, in the format of any provider."""
    choice = choice if isinstance(choice, dict) else {"mode": choice}
    mode: Any = choice.get("mode") or choice.get("type") or "auto"
    mode = str(OLD_GOOGLE_MODES.get(mode, mode)).lower()
    name = choice.get("function", choice).get("name")
    names = [name] if name else either_case(choice, "allowedFunctionNames")
    offered = [tool for tool in tools if tool[0] in names] if names else tools
    if mode == "none":
        return NO_TOOLS
    return Tools(offered, required=mode in ("any", "function", "required", "tool"))


def requested_schema(output_format: Any) -> Document | None:
    """Return the JSON schema that an output format asks for, in the format of most providers.

    Return ``None`` if it does not ask for JSON.
    """
    if not output_format or output_format["type"] not in ("json_schema", "json_object"):
        return None
    # Cohere's "json_schema" is the schema. OpenAI's contains the schema.
    json_schema = output_format.get("json_schema") or {}
    return (
        output_format.get("schema")
        or output_format.get("value")  # Hugging Face
        or json_schema.get("schema")
        or json_schema
    )


def words_in(text: str) -> list[str]:
    """Return the words of *text*, each with the white space after it."""
    return re.findall(r"\S+\s*", text)


def text_of(content: Any) -> str:
    """Return the text of a message's *content*.

    The content is a text or a list of parts. A part has a text, a document (in the results of
    Cohere's tools) or neither.
    """
    if content is None or isinstance(content, str):
        return content or ""
    texts = (
        part.get("text") or text_of_result(part.get("document", {}).get("data", ""))
        for part in content
    )
    return " ".join(filter(None, texts))


def text_of_result(result: Any) -> str:
    """Return the text of a tool's result, which may be any JSON value."""
    return result if isinstance(result, str) else json.dumps(result)


def message_turns(role: Any, text: str, results: list[str]) -> list[Turn]:
    """Return the turns of a message that has a text, tools' results or both."""
    turns: list[Turn] = [("tool", result) for result in results]
    if text or not results:
        turns.append((role, text))
    return turns


def texts_and_tokens(body: Document, name: str) -> tuple[list[str | list[int]], int]:
    """Return the texts in the value *name* of *body*, and how many tokens they have.

    The value is one text or a list of texts. A text may be a list of token IDs.
    """
    value: Any = body.get(name)
    several = isinstance(value, list) and not all(isinstance(item, int) for item in value)
    texts: list[Any] = value if several else [value]
    if len(texts) > MAX_TEXTS:
        raise BadRequest(f"{name} may have at most {MAX_TEXTS} texts, not {len(texts)}")
    for text in texts:
        if not isinstance(text, str) and not (text and all(isinstance(id_, int) for id_ in text)):
            raise BadRequest(f"{name} must be a text or a list of token IDs, or a list of these")
    return texts, sum(len(words_in(text) if isinstance(text, str) else text) for text in texts)
