"""An example agent whose calls go through a models gateway.

    pip install ".[testing]"
    python examples/agent.py
    python examples/agent.py --models-gateway https://gateway.example "How many words is this?"

The agent has a run loop with tools, sub-agents in threads, title generation and compaction. It
also makes one call to the provider itself, which must carry none of the gateway's headers. If
OPENAI_API_KEY is set, the gateway gets it, and if the gateway has a marker, so does the provider.
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
    Gateway,
    SessionExecutor,
    compacting,
    current_session_id,
    generating_title,
    in_session,
    instrument,
    new_session_id,
    session_scope,
    sub_session,
)

OPENAI = "https://api.openai.com/v1"
TIMEOUT = (10, 60)  # seconds: to connect, and to wait for an answer
MAX_ROUNDS = 8
WHAT_YOU_HAVE_SEEN = """
What you have seen: all calls share one requests.Session. Each call through the gateway carried the
ID of the session that made it, also from a sub-agent's thread. By this ID the gateway can bill.
A sub-agent works in a sub-session, so the sum of the main session includes what it has used.
The call to the provider carried no header of ours."""

Json = dict[str, Any]
Tool = Callable[..., str]


def gateway_at(url: str) -> Gateway:
    """Return the gateway at *url*. If yours reads other headers, change this one line."""
    # LiteLLM: return Gateway(url, session_header="x-litellm-session-id", marker=None)
    # https://openrouter.ai/api: return Gateway(url, session_header="x-session-id", marker=None)
    return Gateway(url, root_header="X-Cagent-Root-Session")


class AgentError(Exception):
    """A problem that ends the program. The user sees its message, in one line."""


@dataclass
class AgentSession:
    id: str
    messages: list[Json]


class GatewayCall(NamedTuple):
    """A call to the gateway, with the session ID that the sent request carried."""

    kind: str
    session_id: str
    tokens: int


@dataclass
class Agent:
    http: requests.Session
    gateway: Gateway
    provider: str  # its base URL
    model: str
    pool: Executor
    calls: list[GatewayCall] = field(default_factory=list)
    # By the ID of each session: the IDs from the main session down to it.
    lines: dict[str, list[str]] = field(default_factory=dict)

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
        """Run a sub-agent in a sub-session. SessionExecutor brings the caller's session here."""
        sub, caller = AgentSession(new_session_id(), [user_says(task)]), str(current_session_id())
        self.lines[sub.id] = [*self.lines[caller], sub.id]
        # Only a sub-agent of the main agent can hand on its task.
        tools = [count_words] if self.lines[caller][1:] else [count_words, self.transfer_task]
        with sub_session(sub.id):
            *_, answer = self.run_loop(sub, tools, "sub-agent")
        return answer

    @in_session("sess.id")
    def generate_title(self, sess: AgentSession) -> str:
        """Ask for a title. This is outside the run loop, so it names the session again."""
        question = user_says(f"Make a title of at most six words: {sess.messages[0]['content']}")
        with generating_title():
            return str(self.ask("title", [question])["content"])

    @in_session("sess.id")
    def compact(self, sess: AgentSession) -> str:
        """Replace the session's messages by a summary."""
        question = user_says("Summarize our conversation in one sentence.")
        with compacting():
            summary = str(self.ask("compaction", [*sess.messages, question])["content"])
        sess.messages = [user_says(summary)]
        return summary

    def ask(self, kind: str, messages: list[Json], *tools: Tool) -> Json:
        """Call the model through the gateway. Return its message."""
        body: Json = {"model": self.model, "messages": messages}
        if tools:  # providers refuse an empty list
            body["tools"] = [describe(tool) for tool in tools]
        route = self.gateway.route("openai", model=self.model, forward=self.provider)
        url = f"{route.base_url}chat/completions"
        # The marker is on this call only: the requests.Session also calls the provider.
        options: Json = {"headers": route.headers, "params": route.query, "timeout": TIMEOUT}
        try:
            response = self.http.post(url, json=body, **options)
        except requests.RequestException as error:  # its message may hold a key
            raise AgentError(f"no answer from the gateway: {type(error).__name__}") from error
        session_id = str(response.request.headers.get(self.gateway.session_header))
        if session_id != current_session_id():
            raise AgentError(f"the {kind} call carried the session ID {session_id}")
        if not response.ok:
            problem = f"{response.status_code} {response.text or response.reason}"
            raise AgentError(f"the gateway refused the {kind} call: {problem}")
        try:
            answer = response.json()
            self.calls.append(GatewayCall(kind, session_id, int(answer["usage"]["total_tokens"])))
            return {"content": None, **answer["choices"][0]["message"]}
        except (LookupError, TypeError, ValueError) as error:
            raise AgentError(f"malformed answer from the gateway: {error!r}") from error

    def call_provider(self) -> None:
        """Call the provider directly, and check that the call carried none of our headers."""
        url = f"{self.provider.removesuffix('/')}/models"
        # A gateway without a marker has keys of its own, which the provider must not see.
        headers: Any = {} if self.gateway.marker else {"Authorization": None}
        request: Any
        try:
            response = self.http.get(url, headers=headers, timeout=TIMEOUT, allow_redirects=False)
            result, request = f"status {response.status_code}", response.request
        except requests.RequestException as error:  # some networks allow only the gateway
            result, request = "no answer", error.request
        check_provider_headers(self.gateway, request.headers)
        print(f"\nOne call went past the gateway, to the provider: GET {url}, {result}.")
        print(f"It was made in session {current_session_id()} and carried no header of ours.")


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


def check_provider_headers(gateway: Gateway, headers: Any) -> None:
    ids = (gateway.session_header, gateway.root_header, gateway.parent_header)
    ours = ("x-cagent-", *(name.lower() for name in (*ids, gateway.marker) if name))
    if found := sorted(name for name in headers if name.lower().startswith(ours)):
        raise AgentError(f"the call to the provider carried {', '.join(found)}")


def start_stand_ins(names: Gateway, stack: ExitStack) -> tuple[Any, Any]:
    """Start a gateway that reads these names, with a model that echoes, and a provider."""
    try:  # with a real gateway, neither is needed
        from cagent_session.testing import ModelsGateway  # noqa: PLC0415, I001 - names the extra
        from pytest_httpserver import HTTPServer  # noqa: PLC0415
    except ImportError as error:
        raise AgentError(error) from error
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request otherwise
    provider = stack.enter_context(HTTPServer("127.0.0.1"))
    provider.expect_request("/v1/models").respond_with_json({"object": "list", "data": []})
    gateway = ModelsGateway(
        session_header=names.session_header,
        marker=names.marker,
        root_header=names.root_header,
        parent_header=names.parent_header,
    )
    return stack.enter_context(gateway), provider


def print_bill(agent: Agent, stand_in: Any) -> None:
    """Print the calls and the bill. If the gateway is a stand-in, its bill must be the same."""
    main, *subs = agent.lines
    names = {main: f"main  {main}", **{sub: f"sub   {sub}" for sub in subs}}
    width = max(map(len, names.values())) + 4
    print(f"\n{'calls through the gateway':{width}}  {'for':10}  tokens")
    for call in agent.calls:
        print(f"{names[call.session_id]:{width}}  {call.kind:10}  {call.tokens:6}")
    print(f"\n{'bill of each session':{width}}  calls  tokens")
    bill, sums = {}, {}
    for session_id, line in agent.lines.items():
        own = [call.tokens for call in agent.calls if call.session_id == session_id]
        spent = [call.tokens for call in agent.calls if session_id in agent.lines[call.session_id]]
        bill[session_id], sums[session_id] = (len(own), sum(own)), (len(spent), sum(spent))
        indent = "  " * (len(line) - 1)
        print(f"{indent + names[session_id]:{width}}  {len(spent):5}  {sum(spent):6}")
        if own != spent:
            print(f"{indent + '  its own calls':{width}}  {len(own):5}  {sum(own):6}")
    if stand_in:
        roots = {main: sums[main]} if agent.gateway.root_header else bill
        for by, expected in ("session", bill), ("root", roots):
            usage = stand_in.usage(by).items()
            if expected != {key: (each.calls, each.total_tokens) for key, each in usage}:
                raise AgentError(f"the gateway's bill by {by} is not the agent's")
        print("The gateway's own bill has the same sums.")


def run(options: argparse.Namespace, key: str, stack: ExitStack) -> None:
    http = stack.enter_context(requests.Session())
    gateway, provider, stand_ins = options.gateway, options.forward or OPENAI, None
    if options.url:
        url = options.url.partition("?")[0]  # the query may have a key
        print(f"Calls go through the gateway {url} to {options.model} at {provider}.\n")
    else:
        print("Gateway, provider and model are stand-ins on this machine. The model only echoes.\n")
        stand_ins = start_stand_ins(gateway, stack)
        gateway = gateway_at(stand_ins[0].url)
        provider = options.forward or stand_ins[1].url_for("/v1")
        http.trust_env = False  # no proxy on this machine
    instrument(gateway)
    if key:
        http.headers["Authorization"] = f"Bearer {key}"

    pool = SessionExecutor(ThreadPoolExecutor())
    agent = Agent(http, gateway, provider, options.model, pool)
    agent.lines[options.session] = [options.session]
    sess = AgentSession(options.session, [user_says(options.prompt)])
    print(f"> {options.prompt}")
    for line in agent.run_loop(sess, [agent.transfer_task, count_words], "run loop"):
        print(line, flush=True)  # outside the session
    print(f"title: {agent.generate_title(sess)}")
    print(f"summary: {agent.compact(sess)}")
    print_bill(agent, stand_ins and stand_ins[0])
    with session_scope(options.session):
        agent.call_provider()
    if stand_ins:
        for request, _ in stand_ins[1].log:
            check_provider_headers(gateway, request.headers.keys())
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
    options.url = (options.models_gateway or "").strip().removesuffix("/")
    try:
        if not options.url and (known := Gateway.from_environment()):
            options.url = known.urls[0]
        session_scope(options.session)
        # The stand-in has no URL yet.
        options.gateway = gateway_at(options.url or "http://127.0.0.1")
        options.gateway.route("openai", forward=options.forward, model=options.model)
    except ValueError as error:
        parser.error(str(error))
    if not (key.isascii() and key.isprintable()):
        parser.error("OPENAI_API_KEY must be visible ASCII characters")
    return options


def main() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A model's text may have characters that the terminal can't show.
        sys.stdout.reconfigure(errors="replace")
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
        # sys.exit would wait for the sub-agent's thread, which may wait for an answer.
        os._exit(130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
