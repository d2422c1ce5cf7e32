"""Ask a question in each of two sessions with huggingface_hub 0, which is on requests."""

from example_program import run
from huggingface_hub import AsyncInferenceClient, InferenceClient, configure_http_backend

from cagent_session import session_factory


def make_plain_client(gateway: str) -> InferenceClient:
    return InferenceClient(base_url=f"{gateway}/v1")


def make_plain_async_client(gateway: str) -> AsyncInferenceClient:
    return AsyncInferenceClient(base_url=f"{gateway}/v1")


def make_client(gateway: str, headers: dict[str, str]) -> InferenceClient:
    configure_http_backend(session_factory(gateway=gateway))
    return InferenceClient(base_url=f"{gateway}/v1", headers=headers)


def ask(client: InferenceClient, model: str, question: str) -> object:
    messages = [{"role": "user", "content": question}]
    answer = client.chat.completions.create(model=model, messages=messages)
    return answer.choices[0].message.content


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        own_lines=make_client,
        forward="https://router.huggingface.co/v1",
        model="meta-llama/Llama-3.1-8B-Instruct",
        key="HF_TOKEN",
    )
