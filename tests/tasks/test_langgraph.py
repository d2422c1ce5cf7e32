"""Tests of LangGraph: a node calls the gateway in the session that its thread's ID names."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any, TypedDict

import pytest
from guide_lines import asked_in, evaluate, undecorated
from jobs import ask
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway

THREADS = ["thread-1", "thread-2", "thread-3"]
Graph = Any
Arguments = list[tuple[dict[str, Any], dict[str, Any]]]
"""The input and the config of each run."""


class State(TypedDict):
    gateway: str


def plain_node(state: State, config: RunnableConfig) -> dict[str, Any]:
    ask(state["gateway"], config["configurable"]["thread_id"])
    return {}


async def async_node(state: State, config: RunnableConfig) -> dict[str, Any]:
    return await asyncio.to_thread(plain_node, state, config)


def graph_of(node: Callable[..., Any], decorate: Callable[[Any], Any]) -> Graph:
    """Return a graph of three nodes. The second and the third run at the same time."""
    graph = StateGraph(State)
    for name in ("first", "second", "third"):
        graph.add_node(name, decorate(node))
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    graph.add_edge("first", "third")
    return graph.compile(checkpointer=InMemorySaver())


def invoke(graph: Graph, arguments: Arguments) -> None:
    with session_scope("caller"):
        for each in arguments:
            graph.invoke(*each)


def stream(graph: Graph, arguments: Arguments) -> None:
    with session_scope("caller"):
        streams = [graph.stream(*each) for each in arguments]
        for started in streams:
            next(started)
    with session_scope("reader"):
        for _ in itertools.zip_longest(*streams):
            pass


async def ainvoke(graph: Graph, arguments: Arguments) -> None:
    with session_scope("caller"):
        await asyncio.gather(*(graph.ainvoke(*each) for each in arguments))


async def astream(graph: Graph, arguments: Arguments) -> None:
    async def read(started: AsyncIterator[Any]) -> None:
        async for _ in started:
            pass

    with session_scope("caller"):
        streams = [graph.astream(*each) for each in arguments]
        await asyncio.gather(*map(anext, streams))
    with session_scope("reader"):
        await asyncio.gather(*map(read, streams))


@pytest.mark.parametrize("decorated", [False, True])
@pytest.mark.parametrize(
    ("node", "run", "sessions"),
    [
        (plain_node, invoke, {"caller": 3}),
        (plain_node, stream, {"caller": 1, "reader": 2}),
        (plain_node, ainvoke, {"caller": 3}),
        (async_node, ainvoke, {"caller": 3}),
        (async_node, astream, {"caller": 1, "reader": 2}),
    ],
)
def test_runs_of_several_threads(
    node: Callable[..., Any],
    run: Callable[[Graph, Arguments], Any],
    sessions: dict[str, int],
    decorated: bool,
    models_gateway: ModelsGateway,
) -> None:
    """Without the line, a node runs in the session of the code that drives the graph."""
    graph = graph_of(node, evaluate("LangGraph") if decorated else undecorated)
    running = run(
        graph,
        [
            ({"gateway": models_gateway.url}, {"configurable": {"thread_id": thread}})
            for thread in THREADS
        ],
    )
    if running:
        asyncio.run(running)
    assert asked_in(models_gateway) == {
        (thread, session_id): calls
        for thread in THREADS
        for session_id, calls in ({thread: 3} if decorated else sessions).items()
    }
