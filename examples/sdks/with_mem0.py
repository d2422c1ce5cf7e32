"""Ask a question in each of two sessions with the model of mem0, which is on openai and httpx2."""

import os

from example_program import run

os.environ.setdefault("MEM0_TELEMETRY", "False")  # mem0 reads this when it is imported

from mem0 import AsyncMemory, Memory

IN_MEMORY = {
    "vector_store": {"provider": "qdrant", "config": {"path": ":memory:"}},
    "history_db_path": ":memory:",
}


def make_plain_client(gateway: str) -> Memory:
    config = {"openai_base_url": f"{gateway}/v1"}
    llm = {"provider": "openai", "config": config}
    embedder = {"provider": "openai", "config": {**config, "embedding_dims": 1536}}
    return Memory.from_config({"llm": llm, "embedder": embedder, **IN_MEMORY})


def make_plain_async_client(gateway: str) -> AsyncMemory:
    return AsyncMemory(make_plain_client(gateway).config)


def ask(memory: Memory, model: str, question: str) -> object:
    memory.llm.config.model = model
    return memory.llm.generate_response([{"role": "user", "content": question}])


if __name__ == "__main__":
    run(
        make_plain_client,
        ask,
        forward="https://api.openai.com/v1",
        model="gpt-4o",
        key="OPENAI_API_KEY",
    )
