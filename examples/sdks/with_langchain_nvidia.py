"""Ask a question in each of two sessions with langchain-nvidia-ai-endpoints, on requests."""

from example_program import run
from langchain_nvidia_ai_endpoints import ChatNVIDIA


def make_plain_client(gateway: str) -> ChatNVIDIA:
    return ChatNVIDIA(model="meta/llama-3.3-70b-instruct", base_url=f"{gateway}/v1")


def ask(client: ChatNVIDIA, model: str, question: str) -> object:
    return client.invoke(question, model=model).text


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        forward="https://integrate.api.nvidia.com/v1",
        model="meta/llama-3.3-70b-instruct",
        key="NVIDIA_API_KEY",
    )
