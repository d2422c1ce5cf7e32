"""An example agent whose calls go through a models gateway.

    pip install ".[testing]"
    python examples/agent.py
    python examples/agent.py --models-gateway https://gateway.example "How many words is this?"

The agent has a run loop with tools, a sub-agent in a thread, title generation and compaction. It
also makes one call to the provider itself, which must carry none of the gateway's headers. If
OPENAI_API_KEY is set, the gateway and the provider get it.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import requests

from cagent_session import (
    SESSION_ID_HEADER,
    Gateway,
    SessionExecutor,
    current_session_id,
    gateway_headers,
    in_session,
    instrument,
    new_session_id,
    session_scope,
)

OPENAI = "https://api.openai.com/v1"
TIMEOUT = (10, 60)  # seconds: to connect, and to wait for an answer
MAX_ROUNDS = 8
WHAT_YOU_HAVE_SEEN = """
What you have seen: all calls share one requests.Session. Each call through the gateway carried the
ID of the session that made it, also from the sub-agent's thread. By this ID the gateway can bill.
The call to the provider carried no header of ours."""

Json = dict[str, Any]
Tool = Callable[..., str]


class AgentError(Exception):
    """A problem that ends the program. The user sees its message, in one line."""


@dataclass
class AgentSession:
    id: str
    messages: list[Json]


class GatewayCall(NamedTuple):
    """A call to the gateway, with the session ID that the sent request carried."""

    kind: str
    session_id: Any
    tokens: int


@dataclass
class Agent:
    http: requests.Session
    gateway_url: str
    provider: str  # the base URL that the marker names
    model: str
    pool: Executor
    calls: list[GatewayCall] = field(default_factory=list)
    parents: dict[str, str | None] = field(default_factory=dict)  # by the sub-agent's session ID

    @in_session("sess.id")
    def run_loop(self, sess: AgentSession, tools: list[Tool], kind: str) -> Iterator[str]:
        """Ask the model and run the tools that it calls, until it calls none.

        The generator is in the session only while it runs. Its consumer never is.
        """
        for _ in range(MAX_ROUNDS):
            sess.messages.append(answer := self.ask(kind, sess.messages, *tools))
            if not answer.get("tool_calls"):
                yield str(answer["content"])
                return
            for call in answer["tool_calls"]:
                function = call.get("function", {})
                yield f"-> {function.get('name')}({function.get('arguments')})"
                result = run_tool(function, tools)
                yield f"<- {result}"
                message = {"role": "tool", "tool_call_id": call.get("id"), "content": result}
                sess.messages.append(message)
        raise AgentError(f"the model still calls tools after {MAX_ROUNDS} rounds")

    def transfer_task(self, task: str) -> str:
        """Hand a task to a sub-agent, which can count words."""
        return self.pool.submit(self.run_sub_agent, task).result()

    def run_sub_agent(self, task: str) -> str:
        """Run a sub-agent in a session of its own. SessionExecutor brings the caller's session."""
        sub = AgentSession(new_session_id(), [user_says(task)])
        self.parents[sub.id] = current_session_id()
        *_, answer = self.run_loop(sub, [count_words], "sub-agent")
        return answer

    @in_session("sess.id")
    def generate_title(self, sess: AgentSession) -> str:
        """Ask for a title. This is outside the run loop, so it names the session again."""
        question = user_says(f"Make a title of at most six words: {sess.messages[0]['content']}")
        return str(self.ask("title", [question], generating_title=True)["content"])

    @in_session("sess.id")
    def compact(self, sess: AgentSession) -> str:
        """Replace the session's messages by a summary."""
        question = user_says("Summarize our conversation in one sentence.")
        summary = self.ask("compaction", [*sess.messages, question], compacting=True)["content"]
        sess.messages = [user_says(summary)]
        return str(summary)

    def ask(self, kind: str, messages: list[Json], *tools: Tool, **purpose: Any) -> Json:
        """Call the model through the gateway. Return its message."""
        body: Json = {"model": self.model, "messages": messages}
        if tools:  # providers refuse an empty list
            body["tools"] = [describe(tool) for tool in tools]
        # The marker is on this call only. On the requests.Session, the provider would get it, too.
        headers = gateway_headers(self.provider, provider="openai", model=self.model, **purpose)
        url = f"{self.gateway_url}/v1/chat/completions"
        try:
            response = self.http.post(url, json=body, headers=headers, timeout=TIMEOUT)
        except requests.RequestException as error:  # its message may hold a key
            raise AgentError(f"no answer from the gateway: {type(error).__name__}") from error
        if not response.ok:
            problem = f"{response.status_code} {response.text or response.reason}"
            raise AgentError(f"the gateway refused the {kind} call: {problem}")
        try:
            answer = response.json()
            session_id = response.request.headers.get(SESSION_ID_HEADER)
            self.calls.append(GatewayCall(kind, session_id, int(answer["usage"]["total_tokens"])))
            return {"content": None, **answer["choices"][0]["message"]}
        except (LookupError, TypeError, ValueError) as error:
            raise AgentError(f"malformed answer from the gateway: {error!r}") from error

    def call_provider(self) -> None:
        """Call the provider directly, and check that the call carried none of our headers."""
        url = f"{self.provider.removesuffix('/')}/models"
        request: Any
        try:
            response = self.http.get(url, timeout=TIMEOUT, allow_redirects=False)
            result, request = f"status {response.status_code}", response.request
        except requests.RequestException as error:  # some networks allow only the gateway
            result, request = "no answer", error.request
        check_provider_headers(request.headers)
        print(f"\nOne call went past the gateway, to the provider: GET {url}, {result}.")
        print(f"It was made in session {current_session_id()} and carried no X-Cagent-* header.")


def user_says(text: str) -> Json:
    return {"role": "user", "content": text}


def count_words(text: str) -> str:
    """Count the words of a text."""
    return f"{len(text.split())} words"


def describe(tool: Tool) -> Json:
    """Describe a tool to the model. All parameters are strings."""
    names = list(inspect.signature(tool).parameters)
    properties = {name: {"type": "string"} for name in names}
    parameters = {"type": "object", "properties": properties, "required": names}
    function = {"name": tool.__name__, "description": tool.__doc__, "parameters": parameters}
    return {"type": "function", "function": function}


def run_tool(function: Json, tools: list[Tool]) -> str:
    """Return the tool's result, or say what was wrong with the model's call."""
    try:
        tool = {tool.__name__: tool for tool in tools}[function["name"]]
        return tool(**json.loads(function["arguments"] or "{}"))
    except (LookupError, TypeError, ValueError) as error:
        return f"error: {error!r}"


def check_provider_headers(headers: Any) -> None:
    if found := sorted(name for name in headers if name.lower().startswith("x-cagent-")):
        raise AgentError(f"the call to the provider carried {', '.join(found)}")


def start_stand_ins(stack: ExitStack) -> tuple[Any, Any]:
    """Start a gateway, with a model that echoes, and a provider."""
    try:  # with a real gateway, neither is needed
        from cagent_session.testing import ModelsGateway  # noqa: PLC0415, I001 - names the extra
        from pytest_httpserver import HTTPServer  # noqa: PLC0415
    except ImportError as error:
        raise AgentError(error) from error
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request otherwise
    provider = stack.enter_context(HTTPServer("127.0.0.1"))
    provider.expect_request("/v1/models").respond_with_json({"object": "list", "data": []})
    return stack.enter_context(ModelsGateway()), provider


def print_bill(agent: Agent, session_id: str) -> None:
    names = {session_id: f"main  {session_id}", **{sub: f"sub   {sub}" for sub in agent.parents}}
    width = max(map(len, names.values()))
    print(f"\n{'calls through the gateway':{width}}  {'for':10}  tokens")
    for call in agent.calls:
        print(f"{names.get(call.session_id, '?'):{width}}  {call.kind:10}  {call.tokens:6}")
    print(f"\n{'bill of each session':{width}}  calls  tokens  started by")
    for billed, name in names.items():
        tokens = [call.tokens for call in agent.calls if call.session_id == billed]
        parent = agent.parents.get(billed, "the user")
        print(f"{name:{width}}  {len(tokens):5}  {sum(tokens):6}  {parent}")


def run(options: argparse.Namespace, key: str, stack: ExitStack) -> None:
    http = stack.enter_context(requests.Session())
    started = None if options.gateway else start_stand_ins(stack)
    if started:
        print("Gateway, provider and model are stand-ins on this machine. The model only echoes.\n")
        gateway_url, provider = started[0].url, options.forward or started[1].url_for("/v1")
        http.trust_env = False  # no proxy on this machine
    else:
        gateway_url, provider = options.gateway.urls[0], options.forward or OPENAI
        print(f"Calls go through the gateway {gateway_url} to {options.model} at {provider}.\n")
    instrument(gateway_url)
    if key:
        http.headers["Authorization"] = f"Bearer {key}"

    pool = SessionExecutor(ThreadPoolExecutor())
    agent = Agent(http, gateway_url, provider, options.model, pool)
    sess = AgentSession(options.session, [user_says(options.prompt)])
    print(f"> {options.prompt}")
    for line in agent.run_loop(sess, [agent.transfer_task, count_words], "run loop"):
        print(line, flush=True)  # outside the session
    print(f"title: {agent.generate_title(sess)}")
    print(f"summary: {agent.compact(sess)}")
    print_bill(agent, options.session)
    with session_scope(options.session):
        agent.call_provider()
    if started:  # compare what was sent with what arrived
        received = [call.session_id for call in started[0].calls]
        if received != [call.session_id for call in agent.calls]:
            raise AgentError("the gateway received other calls than the agent sent")
        for request, _ in started[1].log:
            check_provider_headers(request.headers.keys())
    print(WHAT_YOU_HAVE_SEEN)


def parse_arguments(key: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("prompt", nargs="?", default="How many words does this question have?")
    add("--models-gateway", metavar="URL", help="default: from the environment, or a stand-in")
    add("--forward", metavar="URL", help=f"the provider; default: {OPENAI}, or a stand-in")
    add("--model", metavar="NAME", default="gpt-4o-mini", help="default: %(default)s")
    add("--session", metavar="ID", default=new_session_id(), help="default: a new ID")
    options = parser.parse_args()
    url = (options.models_gateway or "").strip().removesuffix("/")
    try:
        options.gateway = Gateway(url) if url else Gateway.from_environment()
        session_scope(options.session)
        gateway_headers(options.forward or OPENAI, model=options.model)
    except ValueError as error:
        parser.error(str(error))
    if not (key.isascii() and key.isprintable()):
        parser.error("OPENAI_API_KEY must be visible ASCII characters")
    return options


def main() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="replace"
        )  # a model's text may have characters that the terminal can't show
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    options = parse_arguments(key)
    try:
        with ExitStack() as stack:
            run(options, key, stack)
    except AgentError as error:
        line = str(error).replace(key, "...") if key else str(error)
        line = "".join(letter if letter.isprintable() else " " for letter in line)[:300]
        print(f"agent.py: {line}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has closed it, as head does
        os._exit(1)
    except KeyboardInterrupt:
        print("agent.py: interrupted", file=sys.stderr)
        sys.stdout.flush()
        os._exit(
            130
        )  # sys.exit would wait for the sub-agent's thread, which may wait for an answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
