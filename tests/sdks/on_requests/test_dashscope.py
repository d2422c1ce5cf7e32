"""Is every call of dashscope, on requests, attributed to its session?"""

from __future__ import annotations

from typing import Any

import dashscope
import requests
from contract import Attributed
from dashscope import Generation

from cagent_session import session_factory

SDK = "dashscope==2.0.2"


class TestDashScope(Attributed):
    retries = False
    paths = ("/api/v1/services/aigc/text-generation/generation",)

    def client(self, gateway: str, headers: dict[str, str]) -> Any:
        dashscope.base_http_api_url = f"{gateway}/api/v1"
        session = session_factory(gateway=gateway, headers=headers)()
        return session

    def ask_plain(self, session: requests.Session, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        model = "qwen-plus"
        answer = Generation.call(model, messages=messages, result_format="message", session=session)
        return answer.output.choices[0].message.content

    def ask_streamed(self, session: requests.Session, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        how = {"result_format": "message", "incremental_output": True, "stream": True}
        stream: Any = Generation.call("qwen-plus", messages=messages, session=session, **how)
        return "".join(chunk.output.choices[0].message.content for chunk in stream)
