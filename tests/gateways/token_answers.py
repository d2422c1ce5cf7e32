"""Answers that state tokens, made from the table from which ModelsGateway counts them."""

from __future__ import annotations

from typing import Any

from cagent_session.testing.tokens import NUMBERS, TokenFields


def nested(path: str, value: Any) -> Any:
    """Return *value* in objects, so that it is at *path*."""
    for name in reversed(path.split(".") if path else []):
        value = {name: value}
    return value


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of both. Objects that both have are merged, too."""
    both = {name: merged(first[name], second[name]) for name in first.keys() & second.keys()}
    return {**first, **second, **both}


def usage_with(fields: TokenFields, first: int = 1) -> tuple[dict[str, Any], dict[str, int]]:
    """Return an object with all *fields*, and the numbers that it states.

    The fields are powers of two, so each number shows which fields were added. Cached tokens are
    the smallest, because they are a part of the prompt.
    """
    names = dict.fromkeys(name for number in reversed(NUMBERS) for name in getattr(fields, number))
    values = {name: first << index for index, name in enumerate(names)}
    usage: dict[str, Any] = {}
    for name, value in values.items():
        usage = merged(usage, nested(name, value))
    numbers = {number: sum(values[name] for name in getattr(fields, number)) for number in NUMBERS}
    return usage, numbers


# Anthropic's server may compact a conversation before it answers. Then a message has several
# iterations. https://platform.claude.com/docs/en/build-with-claude/compaction
LAST = {"input_tokens": 23_000, "output_tokens": 1_000}
COMPACTION = {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500}
ITERATIONS: dict[str, Any] = {"iterations": [COMPACTION, {"type": "message", **LAST}]}
COMPACTED_TOKENS = (203_000, 4_500)
_BEGUN = {"iterations": [COMPACTION, {**LAST, "output_tokens": 1}]}
# A whole answer, or the first and the last event of a streamed one.
COMPACTED: dict[str, list[dict[str, Any]]] = {
    "plain": [{"usage": {**LAST, **ITERATIONS}}],
    "the iterations first": [{"usage": {**ITERATIONS, **LAST}}],
    "in the last event": [
        {"message": {"usage": {**LAST, "output_tokens": 1}}},
        {"usage": {"output_tokens": 1_000, **ITERATIONS}},
    ],
    "in the last event, first": [
        {"message": {"usage": {"output_tokens": 1, "input_tokens": 23_000}}},
        {"usage": {**ITERATIONS, "output_tokens": 1_000}},
    ],
    "in the first event": [
        {"message": {"usage": {**_BEGUN, **LAST, "output_tokens": 1}}},
        {"usage": {"output_tokens": 1_000}},
    ],
    "in both events": [
        {"message": {"usage": {**LAST, "output_tokens": 1, **_BEGUN}}},
        {"usage": {**ITERATIONS, "output_tokens": 1_000}},
    ],
    "only in iterations": [{"usage": ITERATIONS}],
}
# An iteration of another kind, which is complete before the message begins.
ADVISED: dict[str, list[dict[str, Any]]] = {
    "another kind in the first event": [
        {
            "message": {
                "usage": {
                    **LAST,
                    "output_tokens": 1,
                    "iterations": [
                        {"type": "advisor_message", "input_tokens": 500, "output_tokens": 50},
                        {"type": "message", **LAST, "output_tokens": 1},
                    ],
                }
            }
        },
        {"usage": {"output_tokens": 1_000}},
    ],
}
ADVISED_TOKENS = (23_500, 1_050)
# Later figures that are smaller than the iterations before them.
CONTRADICTING: list[dict[str, Any]] = [
    {"message": {"usage": {**LAST, "iterations": [{"input_tokens": 10}]}}},
    {"usage": {"input_tokens": 5, "output_tokens": 7}},
]
CONTRADICTING_TOKENS = (0, 7)
