"""Runs NVIDIA Dynamo's frontend on this port, with a worker that echoes in place of an engine.

Usage: dynamo_frontend.py PORT MODEL. It writes the model's files to the current folder.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any

# This is not an import statement, because Dynamo is not installed where types are checked.
llm: Any = import_module("dynamo.llm")
runtime: Any = import_module("dynamo.runtime")

WORDS = ["[UNK]", "</s>", "user", "assistant", ":", "Hello", "!"]
MODEL_FILES: dict[str, Any] = {
    "config.json": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "eos_token_id": WORDS.index("</s>"),
        "max_position_embeddings": 512,
    },
    "tokenizer.json": {
        "version": "1.0",
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(WORDS)},
            "unk_token": "[UNK]",
        },
    },
    "tokenizer_config.json": {
        "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}",
        "eos_token": "</s>",
    },
}


async def echo(request: Any, _: Any = None) -> AsyncIterator[dict[str, Any]]:
    yield {"token_ids": request["token_ids"], "finish_reason": "stop"}


async def serve(port: int, model: str) -> None:
    distributed = runtime.DistributedRuntime(asyncio.get_running_loop(), "mem", "tcp")
    endpoint = distributed.endpoint("test.worker.generate")
    worker = asyncio.ensure_future(endpoint.serve_endpoint(echo))
    await llm.register_model(
        llm.ModelInput.Tokens,
        llm.ModelType.Chat,
        endpoint,
        str(Path.cwd()),
        model,
        worker_type=llm.WorkerType.Aggregated,
    )
    arguments = llm.EntrypointArgs(llm.EngineType.Dynamic, http_host="127.0.0.1", http_port=port)
    engine = await llm.make_engine(distributed, arguments)
    await llm.run_input(distributed, "http", engine)
    await worker


if __name__ == "__main__":
    for name, content in MODEL_FILES.items():
        Path(name).write_text(json.dumps(content), "utf-8")
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
