"""The numbers of tokens that an answer states, in the format of any provider."""

from __future__ import annotations

from cagent_session.testing.json_bodies import parsed

# The places where an answer, or an event of a streamed one, states its tokens. If several are
# there, the last one counts.
_PLACES = {
    "usage.total_tokens": "prompt_tokens",  # Voyage's embeddings have only this one
    "usage.prompt_tokens": "prompt_tokens",
    "usage.completion_tokens": "completion_tokens",
    "usage.input_tokens": "prompt_tokens",
    "usage.output_tokens": "completion_tokens",
    # OpenAI's event response.completed
    "response.usage.input_tokens": "prompt_tokens",
    "response.usage.output_tokens": "completion_tokens",
    # Anthropic's event message_start, the only event with the tokens of the prompt
    "message.usage.input_tokens": "prompt_tokens",
    "message.usage.output_tokens": "completion_tokens",
    # Cohere
    "usage.tokens.input_tokens": "prompt_tokens",
    "usage.tokens.output_tokens": "completion_tokens",
    # Cohere's event message-end
    "delta.usage.tokens.input_tokens": "prompt_tokens",
    "delta.usage.tokens.output_tokens": "completion_tokens",
    # Bedrock's Converse, and the embeddings of its model Titan
    "usage.inputTokens": "prompt_tokens",
    "usage.outputTokens": "completion_tokens",
    "inputTextTokenCount": "prompt_tokens",
    # Gemini
    "usageMetadata.promptTokenCount": "prompt_tokens",
    "usageMetadata.candidatesTokenCount": "completion_tokens",
    # Ollama
    "prompt_eval_count": "prompt_tokens",
    "eval_count": "completion_tokens",
}


def tokens_in(document: bytes) -> dict[str, int]:
    """Return the numbers of tokens that *document* states, by the name of their field in a Call.

    :param document: an answer, one event of it, or a list of events (Gemini's).
    """
    document = document.strip()
    if document.startswith(b"[") and not document.endswith(b"]"):
        return {}  # a part of a list: parsing it again with each new item would be slow
    answer = parsed(document)
    tokens: dict[str, int] = {}
    for event in answer if isinstance(answer, list) else [answer]:
        for path, field in _PLACES.items():
            value = event
            for name in path.split("."):
                value = value.get(name) if isinstance(value, dict) else None
            if isinstance(value, int):
                tokens[field] = value
    return tokens
