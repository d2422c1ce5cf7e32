"""How are clients asked that chat as openai's do? The ways to call that their SDKs share."""

from __future__ import annotations

from typing import Any

from contract import Attributed, TellsUsage


class Chats(TellsUsage):
    """It chats as openai's client does."""

    def ask_plain(self, client: Any, prompt: str) -> Any:
        answer = client.chat.completions.create(
            model="a-model", messages=[{"role": "user", "content": prompt}]
        )
        return answer.choices[0].message.content

    def ask_streamed(self, client: Any, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        stream = client.chat.completions.create(model="a-model", messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    def figures_plain(self, client: Any, prompt: str) -> Any:
        answer = client.chat.completions.create(
            model="a-model", messages=[{"role": "user", "content": prompt}]
        )
        return answer.usage.prompt_tokens, answer.usage.completion_tokens


class ChatsAsync(Attributed):
    """Its asynchronous client chats as openai's does."""

    async def ask_async(self, client: Any, prompt: str) -> Any:
        answer = await client.chat.completions.create(
            model="a-model", messages=[{"role": "user", "content": prompt}]
        )
        return answer.choices[0].message.content

    async def ask_async_streamed(self, client: Any, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        stream = await client.chat.completions.create(
            model="a-model", messages=messages, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


class Responds(TellsUsage):
    """It speaks the Responses API as openai's clients do, the asynchronous one as well."""

    def figures_responses(self, client: Any, prompt: str) -> Any:
        usage = client.responses.create(model="a-model", input=prompt).usage
        return usage.input_tokens, usage.output_tokens

    def ask_responses(self, client: Any, prompt: str) -> Any:
        return client.responses.create(model="a-model", input=prompt).output_text

    def ask_responses_streamed(self, client: Any, prompt: str) -> Any:
        stream = client.responses.create(model="a-model", input=prompt, stream=True)
        return "".join(
            event.delta for event in stream if event.type == "response.output_text.delta"
        )

    def ask_responses_stream_helper(self, client: Any, prompt: str) -> Any:
        with client.responses.stream(model="a-model", input=prompt) as stream:
            return stream.get_final_response().output_text

    async def ask_responses_async(self, client: Any, prompt: str) -> Any:
        return (await client.responses.create(model="a-model", input=prompt)).output_text


class Embeds(Attributed):
    """It embeds as openai's client does."""

    def ask_embeddings(self, client: Any, prompt: str) -> Any:
        return len(client.embeddings.create(model="a-model", input=prompt).data[0].embedding) > 0


class IsOpenAIs(Chats, ChatsAsync, Responds, Embeds):
    """It is openai's own, and tells the tokens of a stream when asked to."""

    def figures_streamed(self, client: Any, prompt: str) -> Any:
        messages, options = [{"role": "user", "content": prompt}], {"include_usage": True}
        stream = client.chat.completions.create(
            model="a-model", messages=messages, stream=True, stream_options=options
        )
        usages = [chunk.usage for chunk in stream if chunk.usage]
        return sum(usage.prompt_tokens for usage in usages), sum(
            usage.completion_tokens for usage in usages
        )
