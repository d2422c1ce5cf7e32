"""How does an agent tell its models gateway which session each of its calls belongs to?

    pip install ".[testing]"
    python examples/agent.py                              # starts a gateway and a provider of its own, on loopback
    python examples/agent.py --models-gateway https://gateway.example "How many words does this question have?"

The agent has a run loop with tools, a sub-agent in a thread, title generation and compaction. They share one
requests.Session, and so does a call that goes past the gateway. At the end it prints what each session is billed.
OPENAI_API_KEY, if set, goes to the gateway and to the provider.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import requests

from cagent_session import (
    SESSION_ID_HEADER,
    SessionExecutor,
    current_session_id,
    gateway_headers,
    in_session,
    mount,
    new_session_id,
    session_scope,
)

GATEWAY_VARIABLES = ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY")
TIMEOUT = (10, 60)  # seconds: to connect, and to wait for the next piece of an answer
MAX_ROUNDS = 8

Json = dict[str, Any]
Tool = Callable[..., str]


class Failure(Exception):  # noqa: N818 - reads as what it is, like KeyboardInterrupt
    """A line for the user, with which the program ends."""

    status = 1


class BadArgument(Failure):
    status = 2


@dataclass
class AgentSession:
    id: str
    messages: list[Json]


@dataclass
class Sent:
    """A call as it went out, read from the request itself."""

    kind: str
    session_id: Any
    status: int | str
    tokens: int = 0


@dataclass
class Agent:
    http: requests.Session
    gateway: str
    forward: str
    model: str
    pool: Executor
    sent: list[Sent] = field(default_factory=list)
    parents: dict[str, str | None] = field(default_factory=dict)  # of the sub-sessions
    leaked: set[str] = field(default_factory=set)  # the gateway's headers in the call past it

    @in_session("sess.id")
    def run_loop(
        self, sess: AgentSession, tools: list[Tool], kind: str = "run loop"
    ) -> Iterator[str]:
        """Ask the model, run the tools that it calls, and ask again, until it calls none.

        All of this is in the session. Whoever consumes the pieces of text is not, between one and the next.
        """
        for _ in range(MAX_ROUNDS):
            message = yield from self.stream(kind, sess.messages, tools)
            sess.messages.append(message)
            if "tool_calls" not in message:
                return
            for call in message["tool_calls"]:
                yield f"-> {call['function']['name']}({call['function']['arguments']})\n"
                result = run_tool(call["function"], tools)
                yield f"<- {result}\n"
                sess.messages.append(
                    {"role": "tool", "tool_call_id": call["id"], "content": result}
                )
        raise Failure(f"the model still calls tools after {MAX_ROUNDS} rounds")

    def transfer_task(self, task: str) -> str:
        """Hand a task to a sub-agent, which can count words."""
        return self.pool.submit(self.run_sub_agent, task).result()

    def run_sub_agent(self, task: str) -> str:
        """Run a sub-session in a thread, to which SessionExecutor has carried the session that delegates."""
        sub = AgentSession(new_session_id(), [{"role": "user", "content": task}])
        self.parents[sub.id] = current_session_id()
        for _ in self.run_loop(sub, [count_words], "sub-session"):
            pass
        return str(sub.messages[-1]["content"])

    @in_session("sess.id")
    def generate_title(self, sess: AgentSession) -> str:
        """Ask for a title: outside the run loop, so it says itself whose call this is."""
        question = (
            f"Give this conversation a title of at most six words: {sess.messages[0]['content']}"
        )
        return "".join(
            self.stream("title", [{"role": "user", "content": question}], [], generating_title=True)
        )

    @in_session("sess.id")
    def compact(self, sess: AgentSession) -> str:
        """Replace the history by a summary: the call belongs to the session that is compacted."""
        question = {"role": "user", "content": "Summarize our conversation in one sentence."}
        summary = "".join(
            self.stream("compaction", [*sess.messages, question], [], compacting=True)
        )
        sess.messages = [{"role": "user", "content": summary}]
        return summary

    def stream(
        self, kind: str, messages: list[Json], tools: list[Tool], **purpose: Any
    ) -> Generator[str, None, Json]:
        """Call the gateway; yield the text of its answer as it comes, and return it as a message."""
        text, calls, finished = "", dict[int, Json](), False
        body: Json = {"model": self.model, "messages": messages, "stream": True}
        body["stream_options"] = {"include_usage": True}
        if tools:
            body["tools"] = [describe(tool) for tool in tools]
        # The marker is on this call only: headers of the requests.Session would go to the provider, too.
        headers = gateway_headers(self.forward, provider="openai", model=self.model, **purpose)
        url = f"{self.gateway}/v1/chat/completions"
        with (
            one_line_errors("the models gateway"),
            self.http.post(
                url, json=body, headers=headers, stream=True, timeout=TIMEOUT
            ) as response,
        ):
            sent = self.note(kind, response)
            if not response.ok:
                raise Failure(
                    f"the models gateway refused the {kind} call: {sent.status} {reason(response)}"
                )
            for line in response.iter_lines():
                name, _, data = line.partition(b":")
                if name != b"data" or data.strip() == b"[DONE]":
                    continue
                chunk = json.loads(data)
                sent.tokens = int((chunk.get("usage") or {}).get("total_tokens") or sent.tokens)
                for choice in chunk["choices"]:
                    finished = finished or choice.get("finish_reason") is not None
                    text += choice["delta"].get("content") or ""
                    yield choice["delta"].get("content") or ""
                    for piece in choice["delta"].get("tool_calls") or []:
                        function = {"name": piece["function"].get("name"), "arguments": ""}
                        first = {"id": piece.get("id"), "type": "function", "function": function}
                        call = calls.setdefault(piece["index"], first)
                        call["function"]["arguments"] += piece["function"].get("arguments") or ""
            if not finished:
                raise ValueError("no complete stream of server-sent events")
        message = {"role": "assistant", "content": text}
        return {**message, "tool_calls": list(calls.values())} if calls else message

    def call_provider(self) -> None:
        """Call the provider itself: without the marker nothing of ours goes out, session or not."""
        url = f"{self.forward.removesuffix('/')}/models"
        try:
            with self.http.get(url, timeout=TIMEOUT) as response:
                self.note("direct", response)
                requests_sent: list[Any] = [hop.request for hop in (*response.history, response)]
        except requests.RequestException as error:
            if error.request is None:
                raise Failure(f"no call to the provider: {type(error).__name__}") from error
            self.sent.append(
                Sent("direct", None, "none")
            )  # where a gateway is the only way out, none is to be had
            requests_sent = [error.request]
        for request in requests_sent:
            self.leaked.update(cagent_headers(request.headers))

    def note(self, kind: str, response: requests.Response) -> Sent:
        sent = Sent(kind, response.request.headers.get(SESSION_ID_HEADER), response.status_code)
        self.sent.append(sent)
        return sent


def count_words(text: str) -> str:
    """Count the words of a text."""
    return f"{len(text.split())} words"


def describe(tool: Tool) -> Json:
    """Describe a tool to the model: its name, its docstring, and its parameters, which are all strings."""
    names = list(inspect.signature(tool).parameters)
    parameters = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": names,
    }
    function = {"name": tool.__name__, "description": tool.__doc__, "parameters": parameters}
    return {"type": "function", "function": function}


def run_tool(function: Json, tools: list[Tool]) -> str:
    """Return a tool's result, or what was wrong with the call: the model may do better the next time."""
    try:
        tool = {tool.__name__: tool for tool in tools}[function["name"]]
        return tool(**json.loads(function["arguments"] or "{}"))
    except (LookupError, TypeError, ValueError) as error:
        return f"error: {error!r}"


def cagent_headers(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.lower().startswith("x-cagent-")]


def reason(response: requests.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (LookupError, TypeError, ValueError):
        return response.reason


@contextmanager
def one_line_errors(peer: str) -> Iterator[None]:
    try:
        yield
    except requests.RequestException as error:  # its message may hold a key; its type says enough
        raise Failure(f"no answer from {peer}: {type(error).__name__}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise Failure(f"malformed answer from {peer}: {error!r}") from error


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadArgument(f"{message}; see --help")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default="How many words does this question have?")
    parser.add_argument(
        "--models-gateway", metavar="URL", help=f"default: ${', else $'.join(GATEWAY_VARIABLES)}"
    )
    parser.add_argument(
        "--forward",
        metavar="URL",
        help="the provider's base URL; default: https://api.openai.com/v1",
    )
    parser.add_argument(
        "--model", metavar="NAME", default="gpt-4o-mini", help="default: %(default)s"
    )
    parser.add_argument("--session", metavar="ID", help="default: a new ID")
    return parser.parse_args()


def gateway_url(option: str | None) -> str | None:
    """Return the first URL that is set, where docker-agent looks for one."""
    urls = (option, *map(os.environ.get, GATEWAY_VARIABLES))
    return next(filter(None, ((url or "").strip().removesuffix("/") for url in urls)), None)


def print_bill(agent: Agent, main_id: str) -> None:
    labels = {main_id: f"main {main_id}", **{sub: f"sub  {sub}" for sub in agent.parents}}
    width = max(map(len, labels.values()))
    print(f"\n{'session':{width}}  {'call':11}  status  tokens")
    for sent in agent.sent:
        print(
            f"{labels.get(sent.session_id, '-'):{width}}  {sent.kind:11}  {sent.status:>6}  {sent.tokens:6}"
        )
    print(f"\n{'session':{width}}  calls  tokens  delegated by")
    for session_id, label in labels.items():
        tokens = [sent.tokens for sent in agent.sent if sent.session_id == session_id]
        print(
            f"{label:{width}}  {len(tokens):5}  {sum(tokens):6}  {agent.parents.get(session_id) or '-'}"
        )


def run(options: argparse.Namespace, key: str, stack: ExitStack) -> None:
    http = stack.enter_context(requests.Session())
    url, forward, own = gateway_url(options.models_gateway), "https://api.openai.com/v1", None
    if url is None:
        try:
            # A real gateway needs neither. The first import tells who lacks the extra, so it is not sorted in.
            from cagent_session.testing import ModelsGateway  # noqa: I001, PLC0415
            from pytest_httpserver import HTTPServer  # noqa: PLC0415
        except ImportError as error:
            raise Failure(error) from error
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request otherwise
        own = stack.enter_context(ModelsGateway()), stack.enter_context(HTTPServer("127.0.0.1"))
        own[1].expect_request("/v1/models").respond_with_json({"object": "list", "data": []})
        url, forward = own[0].url, own[1].url_for("/v1")
        http.trust_env = False  # no proxy on loopback
    forward = forward if options.forward is None else options.forward
    session_id = new_session_id() if options.session is None else options.session
    try:
        scope = session_scope(session_id)
        mount(http, gateway=url)
        gateway_headers(forward, model=options.model)
    except ValueError as error:
        raise BadArgument(error) from error
    if key:
        http.headers["Authorization"] = f"Bearer {key}"

    pool = ThreadPoolExecutor()
    stack.callback(pool.shutdown, wait=False)
    agent = Agent(http, url, forward, options.model, SessionExecutor(pool))
    sess = AgentSession(session_id, [{"role": "user", "content": options.prompt}])
    print(f"> {options.prompt}")
    for text in agent.run_loop(sess, [agent.transfer_task, count_words]):
        print(text, end="", flush=True)  # between two pieces we are in no session
    print(f"\ntitle: {agent.generate_title(sess)}")
    print(f"summary: {agent.compact(sess)}")
    with scope:
        agent.call_provider()
    print_bill(agent, session_id)

    evidence = "as it was sent"
    if own:
        seen = [
            (call.session_id, call.status, call.prompt_tokens + call.completion_tokens)
            for call in own[0].calls
        ]
        if seen != [
            (sent.session_id, sent.status, sent.tokens)
            for sent in agent.sent
            if sent.kind != "direct"
        ]:
            raise Failure("what the models gateway saw differs from what was sent")
        for request, _ in own[1].log:
            evidence = "as the provider received it"
            agent.leaked.update(cagent_headers(request.headers.keys()))
    if agent.leaked:
        raise Failure(f"the direct provider call carried {', '.join(sorted(agent.leaked))}")
    print(f"\nThe direct provider call carried no X-Cagent-* header ({evidence}).")


def main() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # models say what not every terminal can show
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    try:
        if not (key.isascii() and key.isprintable()):
            raise BadArgument("OPENAI_API_KEY must be visible ASCII characters")
        with ExitStack() as stack:
            run(parse_arguments(), key, stack)
    except Failure as failure:
        line = str(failure).replace(key, "...") if key else str(failure)
        print(
            "agent.py:", "".join(c if c.isprintable() else " " for c in line)[:300], file=sys.stderr
        )
        return failure.status
    except BrokenPipeError:
        os._exit(1)  # whoever read what is printed went away, as head does
    except KeyboardInterrupt:
        print("agent.py: interrupted", file=sys.stderr)
        sys.stdout.flush()
        os._exit(
            130
        )  # an exit would wait for the sub-agent's thread, and that may wait for the gateway
    return 0


if __name__ == "__main__":
    sys.exit(main())
