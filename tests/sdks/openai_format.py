"""Ways to call that several SDKs share because their clients have the methods of openai's."""

from __future__ import annotations

from typing import Any

from contract import AttributesCalls, StatesUsage, Streams, messages_of


class Chats(StatesUsage, Streams):
    """An SDK with chat completions."""

    def stream_chat(self, client: Any, prompt: str) -> Any:
        messages = messages_of(prompt)
        stream = client.chat.completions.create(model="a-model", messages=messages, stream=True)
        return (chunk.choices[0].delta.content or "" for chunk in stream)

    def usage_chat(self, client: Any, prompt: str) -> Any:
        messages = messages_of(prompt)
        usage = client.chat.completions.create(model="a-model", messages=messages).usage
        return usage.prompt_tokens, usage.completion_tokens


class ChatsAsync(Streams):
    """An SDK whose asynchronous client has chat completions."""

    async def ask_async(self, client: Any, prompt: str) -> Any:
        messages = messages_of(prompt)
        answer = await client.chat.completions.create(model="a-model", messages=messages)
        return answer.choices[0].message.content

    async def stream_async(self, client: Any, prompt: str) -> Any:
        messages = messages_of(prompt)
        stream = await client.chat.completions.create(
            model="a-model", messages=messages, stream=True
        )
        return (chunk.choices[0].delta.content or "" async for chunk in stream)


class Embeds(AttributesCalls):
    """An SDK with embeddings."""

    def ask_embeddings(self, client: Any, prompt: str) -> Any:
        return len(client.embeddings.create(model="a-model", input=prompt).data[0].embedding) > 0


class IsOpenAI(Chats, ChatsAsync, Embeds):
    """The SDK of OpenAI itself. It has responses, and can state the tokens of a stream."""

    def ask_chat(self, client: Any, prompt: str) -> Any:
        messages = messages_of(prompt)
        answer = client.chat.completions.create(model="a-model", messages=messages)
        return answer.choices[0].message.content

    def ask_responses(self, client: Any, prompt: str) -> Any:
        return client.responses.create(model="a-model", input=prompt).output_text

    async def ask_responses_async(self, client: Any, prompt: str) -> Any:
        return (await client.responses.create(model="a-model", input=prompt)).output_text

    def ask_responses_stream_helper(self, client: Any, prompt: str) -> Any:
        with client.responses.stream(model="a-model", input=prompt) as stream:
            return stream.get_final_response().output_text

    def stream_responses(self, client: Any, prompt: str) -> Any:
        stream = client.responses.create(model="a-model", input=prompt, stream=True)
        return (event.delta for event in stream if event.type == "response.output_text.delta")

    def usage_responses(self, client: Any, prompt: str) -> Any:
        usage = client.responses.create(model="a-model", input=prompt).usage
        return usage.input_tokens, usage.output_tokens

    def usage_stream(self, client: Any, prompt: str) -> Any:
        messages, options = messages_of(prompt), {"include_usage": True}
        stream = client.chat.completions.create(
            model="a-model", messages=messages, stream=True, stream_options=options
        )
        (usage,) = (chunk.usage for chunk in stream if chunk.usage)
        return usage.prompt_tokens, usage.completion_tokens
