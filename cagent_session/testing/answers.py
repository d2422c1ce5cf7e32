"""The default answer to a request. Its path decides which provider's format the answer has."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from werkzeug import Request, Response
from werkzeug.exceptions import BadRequest

from cagent_session.testing import anthropic, bedrock, cohere, dashscope, gemini, ollama, openai
from cagent_session.testing.json_bodies import json_response

Answer = Callable[[Request], Response]

# The keys are ends of paths. If several match, the longest one counts: "/chat/completions" also
# ends in "/completions".
#
# The functions need not check the body. If a key is missing, or a type or a value is wrong,
# default_answer() turns the exception into a 400.
ANSWERS: dict[str, Answer] = {
    "/chat/completions": openai.chat_completion,
    "/agents/completions": openai.chat_completion,  # Mistral
    "/fim/completions": openai.chat_completion,  # Mistral
    "/completions": openai.text_completion,
    "/embeddings": openai.embeddings,
    "/invocations": openai.databricks_invocation,
    "/responses": openai.model_response,
    "/v1/messages": anthropic.message,
    "/v1/messages/count_tokens": anthropic.token_count,
    "/converse": bedrock.converse,
    "/converse-stream": bedrock.converse_stream,
    "/invoke": bedrock.invoke,
    "/invoke-with-response-stream": bedrock.invoke_stream,
    ":generateContent": gemini.content,
    ":streamGenerateContent": gemini.content,
    ":countTokens": gemini.token_count,
    ":embedContent": gemini.embeddings,
    ":batchEmbedContents": gemini.embeddings,
    "/api/chat": ollama.chat,
    "/api/generate": ollama.generate,
    "/api/embed": ollama.embed,
    "/v2/chat": cohere.chat,
    "/text-generation/generation": dashscope.generation,
}

_MALFORMED = (
    AttributeError,
    LookupError,
    OverflowError,  # int() of 1e999
    RecursionError,
    TypeError,
    ValueError,
)

_is_gemini_path = re.compile(r"/models/[^/]+:\w+$").search
_is_bedrock_path = re.compile(r"/model/.+/[^/]+$").search
_is_ollama_path = re.compile(r"/api/\w+$").search


def default_answer(request: Request) -> Response | None:
    """Return what a provider would answer to *request*. The answer may be an error.

    Return ``None`` if the request is not a POST, or if no provider here has its path.
    """
    ends = [end for end in ANSWERS if request.path.endswith(end)]
    if request.method != "POST" or not ends:
        return None
    answer = ANSWERS[max(ends, key=len)]
    try:
        return answer(request)
    except BadRequest as error:
        return error_answer(request, 400, str(error.description))
    except _MALFORMED as error:
        return error_answer(request, 400, f"the body is malformed: {error!r}")


def error_answer(request: Request, status: int, message: str) -> Response:
    """Return an error in the format of the provider that has the path of *request*.

    For any other path it is OpenAI's format. Anthropic and Cohere need the outer type and message.
    """
    error: Any = {
        "message": message,
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    if _is_gemini_path(request.path):
        error["code"] = status
        error["status"] = "NOT_FOUND" if status == 404 else "INVALID_ARGUMENT"
    if _is_ollama_path(request.path):
        error = message
    response = json_response({"type": "error", "error": error, "message": message}, status)
    if _is_bedrock_path(request.path):
        name = "ResourceNotFoundException" if status == 404 else "ValidationException"
        response.headers["X-Amzn-ErrorType"] = name
    return response
