"""What the gateway replies in place of a model: texts, tool calls and embeddings."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import uuid
from dataclasses import dataclass, field
from typing import Any

from werkzeug.exceptions import BadRequest

from cagent_session.testing.conversations import NO_TOOLS, Tools, Turn, words_in
from cagent_session.testing.json_bodies import Document
from cagent_session.testing.json_schemas import fitting_value


@dataclass(frozen=True)
class Reply:
    """A text, or a call of a tool.

    For a call, *tool* is the name of the tool, and *text* is its *arguments* as JSON.
    """

    text: str
    prompt_tokens: int
    tool: str = ""
    arguments: Document = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def words(self) -> list[str]:
        """The pieces of the text in a streamed answer."""
        return words_in(self.text)

    def texts(self, *, streamed: bool) -> list[str]:
        """Return the texts of an answer's pieces, for formats that do not divide tool calls.

        A call is one piece with an empty text.
        """
        if self.tool:
            return [""]
        return self.words if streamed else [self.text]

    def usage(self, prompt: str, completion: str, total: str = "") -> Document:
        """Return the numbers of tokens, under the names that a provider uses."""
        tokens = {prompt: self.prompt_tokens, completion: len(self.words)}
        if total:
            tokens[total] = sum(tokens.values())
        return tokens


def reply_to(turns: list[Turn], tools: Tools = NO_TOOLS, schema: Document | None = None) -> Reply:
    """Reply to a conversation with a tool call, with JSON that fits *schema*, or with an echo.

    A tool is called if a call is required, or if there is no result of a tool yet.
    """
    prompt_tokens = sum(len(words_in(text)) for _, text in turns)
    question = dict(turns).get("user", "")
    results = sum(role == "tool" for role, _ in turns)
    if tools.offered and (tools.required or not results):
        # One tool after the other: if calls are required, one of them may end the agent's run.
        name, parameters = tools.offered[results % len(tools.offered)]
        arguments = fitting_value(parameters or {}, question)
        return Reply(strict_json(arguments), prompt_tokens, name, arguments)
    if schema is not None:
        return Reply(strict_json(fitting_value(schema, question)), prompt_tokens)
    role, text = turns[-1]
    speaker = "The tool" if role == "tool" else "You"
    return Reply(f"{speaker} said: {text}", prompt_tokens)


def strict_json(value: Any) -> str:
    """Return *value* as JSON, which has no infinity. A schema's ``1e999`` becomes one."""
    return json.dumps(value, allow_nan=False)


def embedding(text: str | list[int], dimensions: Any) -> list[float]:
    """Return a vector of length 1, which is always the same for the same *text*.

    :param dimensions: 1 to 4096; ``None`` for 8.
    """
    count = 8 if dimensions is None else dimensions
    if type(count) is not int or not 1 <= count <= 4096:
        raise BadRequest(f"an embedding has 1 to 4096 dimensions, not {dimensions!r}")
    digest = hashlib.shake_256(json.dumps(text).encode()).digest(4 * count)
    numbers = struct.unpack(f"<{count}i", digest)
    length = math.hypot(*numbers)
    return [number / length for number in numbers]
