"""The numbers of tokens that an answer states, in the format of any provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cagent_session.testing.json_bodies import parsed


@dataclass(frozen=True)
class TokenFields:
    """Where a format states its tokens. A number is the sum of the fields that are named for it.

    ``places`` are the paths to the object that holds the fields, in an answer or in an event of a
    streamed one. The empty path is the answer itself. The other names are paths in that object.
    """

    format: str
    places: tuple[str, ...]
    prompt_tokens: tuple[str, ...] = ()
    completion_tokens: tuple[str, ...] = ()
    cached_tokens: tuple[str, ...] = ()
    cache_write_tokens: tuple[str, ...] = ()


NUMBERS = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens")

# The prompt includes the tokens that were read from a cache and written to one. The completion
# includes reasoning. Where a provider counts these apart, they are added here. If an answer has
# the fields of several formats, the first one counts.
TOKEN_FIELDS = (
    TokenFields(
        # Also the formats of Azure, Databricks, DeepSeek, Groq, Mistral and OpenRouter.
        "OpenAI's chat completions and embeddings",
        ("usage",),
        prompt_tokens=("prompt_tokens",),
        completion_tokens=("completion_tokens",),
        cached_tokens=("prompt_tokens_details.cached_tokens",),
        cache_write_tokens=("prompt_tokens_details.cache_write_tokens",),
    ),
    TokenFields(
        "Anthropic",
        ("usage", "message.usage"),  # the second one in the event message_start
        prompt_tokens=("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
        completion_tokens=("output_tokens",),
        cached_tokens=("cache_read_input_tokens",),
        cache_write_tokens=("cache_creation_input_tokens",),
    ),
    TokenFields(
        "OpenAI's responses",
        ("usage", "response.usage"),  # the second one in the event response.completed
        prompt_tokens=("input_tokens",),
        completion_tokens=("output_tokens",),
        cached_tokens=("input_tokens_details.cached_tokens",),
        cache_write_tokens=("input_tokens_details.cache_write_tokens",),
    ),
    TokenFields(
        "DashScope",
        ("usage",),
        prompt_tokens=("input_tokens",),
        completion_tokens=("output_tokens",),
        cached_tokens=("prompt_tokens_details.cached_tokens",),
        cache_write_tokens=("prompt_tokens_details.cache_creation_input_tokens",),
    ),
    TokenFields(
        "Cohere",
        ("usage", "delta.usage"),  # the second one in the event message-end
        prompt_tokens=("tokens.input_tokens",),
        completion_tokens=("tokens.output_tokens",),
        cached_tokens=("cached_tokens",),
    ),
    TokenFields(
        "Bedrock's Converse",
        ("usage",),
        prompt_tokens=("inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"),
        completion_tokens=("outputTokens",),
        cached_tokens=("cacheReadInputTokens",),
        cache_write_tokens=("cacheWriteInputTokens",),
    ),
    TokenFields("Bedrock's Titan", ("",), prompt_tokens=("inputTextTokenCount",)),
    TokenFields(
        "Gemini",
        ("usageMetadata",),
        prompt_tokens=("promptTokenCount", "toolUsePromptTokenCount"),
        completion_tokens=("candidatesTokenCount", "thoughtsTokenCount"),
        cached_tokens=("cachedContentTokenCount",),
    ),
    TokenFields(
        "Ollama",
        ("",),
        prompt_tokens=("prompt_eval_count",),
        completion_tokens=("eval_count",),
    ),
    TokenFields("Voyage", ("usage",), prompt_tokens=("total_tokens",)),
)

# Anthropic: what each call of the model took, if the server made several for one answer. The
# fields beside this list leave out those for compaction.
ITERATIONS = "iterations"


class TokenCounter:
    """Counts the tokens of one answer, from its documents.

    The documents are the whole answer, or the events of a streamed one. If several state the same
    field, the last one counts.
    """

    def __init__(self) -> None:
        self._stated: dict[str, int] = {}  # by field
        self._more: dict[str, int] = {}  # what the iterations add to a field

    def add(self, document: bytes) -> None:
        """Read *document*: an answer, one event of it, or a list of events (Gemini's)."""
        answer = parsed(document)
        for event in answer if isinstance(answer, list) else [answer]:
            for fields in TOKEN_FIELDS:
                for place in fields.places:
                    self._read(_value_at(event, place), fields)

    @property
    def numbers(self) -> dict[str, int]:
        """The numbers of tokens so far, by the name of their field in a Call."""
        return {number: self._number(number) for number in NUMBERS}

    def _read(self, usage: Any, fields: TokenFields) -> None:
        """Read *usage*, the object with these *fields*."""
        if not isinstance(usage, dict):
            return
        iterations = usage.get(ITERATIONS)
        each = iterations if isinstance(iterations, list) else []
        for name in {name for number in NUMBERS for name in getattr(fields, number)}:
            for value in _integers_at([usage], name):
                self._stated[name] = value
            values = _integers_at(each, name)
            if values:
                self._more[name] = sum(values) - self._stated.get(name, 0)

    def _number(self, number: str) -> int:
        for fields in TOKEN_FIELDS:
            names = getattr(fields, number)
            if any(name in self._stated or name in self._more for name in names):
                each = (self._stated.get(name, 0) + self._more.get(name, 0) for name in names)
                return max(0, sum(each))  # contradicting figures could make it negative
        return 0


def _integers_at(objects: list[Any], path: str) -> list[int]:
    """Return the integers that the *objects* have at *path*. ``True`` is none."""
    values = (_value_at(each, path) for each in objects)
    return [value for value in values if type(value) is int]


def _value_at(value: Any, path: str) -> Any:
    """Return what *value*, a parsed JSON document, has at *path*, or ``None``."""
    for name in path.split(".") if path else []:
        value = value.get(name) if isinstance(value, dict) else None
    return value
