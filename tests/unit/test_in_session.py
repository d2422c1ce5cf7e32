"""Does each call of a decorated function run in its own session, and is it otherwise as it was?"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextvars import Context, ContextVar, copy_context
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cagent_session import InvalidSessionId, context, current_session_id, in_session, session_scope


def function(session_id: str | None) -> str | None:
    """A function's docstring."""
    return current_session_id()


def generator(session_id: str | None) -> Iterator[str | None]:
    """A generator function's docstring."""
    yield current_session_id()


async def coroutine(session_id: str | None) -> str | None:
    """A coroutine function's docstring."""
    await asyncio.sleep(0)
    return current_session_id()


async def async_generator(session_id: str | None) -> AsyncIterator[str | None]:
    """An asynchronous generator function's docstring."""
    await asyncio.sleep(0)
    yield current_session_id()


class CallableFunction:
    def __call__(self, session_id: str | None) -> str | None:
        return function(session_id)


class CallableGenerator:
    def __call__(self, session_id: str | None) -> Iterator[str | None]:
        yield from generator(session_id)


class CallableCoroutine:
    async def __call__(self, session_id: str | None) -> str | None:
        return await coroutine(session_id)


class CallableAsyncGenerator:
    async def __call__(self, session_id: str | None) -> AsyncIterator[str | None]:
        async for seen in async_generator(session_id):
            yield seen


KINDS: list[Callable[..., Any]] = [function, generator, coroutine, async_generator]
CALLABLES: list[Callable[..., Any]] = [
    CallableFunction(),
    CallableGenerator(),
    CallableCoroutine(),
    CallableAsyncGenerator(),
]


@in_session("session_id")
def run_loop(session_id: str) -> Iterator[str | None]:
    """Tell the current session for ever."""
    while session_id:
        yield current_session_id()


def seen_in(result: Any) -> Any:
    """Take what a call of any kind returned to its end, and return what was seen on the way."""
    if inspect.isgenerator(result):
        (seen,) = result
    elif inspect.iscoroutine(result):
        seen = asyncio.run(result)
    elif inspect.isasyncgen(result):

        async def collect() -> list[Any]:
            return [item async for item in result]

        (seen,) = asyncio.run(collect())
    else:
        seen = result
    return seen


@pytest.mark.parametrize("fn", KINDS + CALLABLES)
@pytest.mark.parametrize(
    "of", ["session_id", "session_id.__str__.__self__", lambda session_id: session_id]
)
def test_the_body_runs_in_the_session_and_nothing_else_does(
    fn: Callable[..., Any], of: Any
) -> None:
    decorated = in_session(of)(fn)
    with session_scope("consumer"):
        assert seen_in(decorated("sess-1")) == "sess-1"
        assert current_session_id() == "consumer"
        assert seen_in(decorated(session_id="sess-2")) == "sess-2"
        assert current_session_id() == "consumer"
    assert current_session_id() is None


@pytest.mark.parametrize("fn", KINDS)
def test_none_means_no_session_in_the_body(fn: Callable[..., Any]) -> None:
    with session_scope("consumer"):
        assert seen_in(in_session("session_id")(fn)(None)) is None
        assert current_session_id() == "consumer"


@pytest.mark.parametrize("fn", KINDS)
def test_an_invalid_id_is_refused_and_the_body_never_starts(fn: Callable[..., Any]) -> None:
    with session_scope("consumer"):
        with pytest.raises(InvalidSessionId, match="a space at position 4"):
            seen_in(in_session("session_id")(fn)("sess 1"))
        assert current_session_id() == "consumer"


@pytest.mark.parametrize("fn", KINDS)
@pytest.mark.parametrize("of", ["session_id", lambda *args, **kwargs: "sess-1"])
@pytest.mark.parametrize(("args", "kwargs"), [((), {}), (("a", "b"), {}), (("a",), {"unknown": 1})])
def test_a_call_that_does_not_fit_the_signature_is_a_type_error(
    fn: Callable[..., Any], of: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match="argument"):
        seen_in(in_session(of)(fn)(*args, **kwargs))
    assert current_session_id() is None


@pytest.mark.parametrize("fn", KINDS)
def test_kind_name_docstring_and_signature_are_kept(fn: Callable[..., Any]) -> None:
    decorated: Any = in_session("session_id")(fn)
    for is_kind in (
        inspect.isgeneratorfunction,
        inspect.iscoroutinefunction,
        inspect.isasyncgenfunction,
    ):
        assert is_kind(decorated) == is_kind(fn)
    assert decorated.__name__ == fn.__name__
    assert decorated.__doc__ == fn.__doc__
    assert inspect.signature(decorated) == inspect.signature(fn)
    assert decorated.__wrapped__ is fn


@pytest.mark.parametrize("fn", KINDS + CALLABLES)
def test_a_partial_is_of_the_kind_of_its_function(fn: Callable[..., Any]) -> None:
    assert (
        seen_in(in_session("session_id")(functools.partial(fn, session_id="sess-1"))()) == "sess-1"
    )


@pytest.mark.parametrize("fn", KINDS)
def test_methods_of_every_sort_find_their_parameters(fn: Callable[..., Any]) -> None:
    class Agent:
        id = "agent"

        def __init__(self, session_id: str) -> None:
            self.sess = SimpleNamespace(id=session_id)

        @in_session("self.sess.id")
        def run(self) -> Any:
            return function(None)

        @classmethod
        @in_session("cls.id")
        def of_the_class(cls) -> Any:
            return function(None)

        static = staticmethod(in_session("session_id")(fn))

    assert Agent("sess-1").run() == "sess-1"
    assert Agent.of_the_class() == "agent"
    assert seen_in(Agent.static("sess-2")) == seen_in(Agent("sess-1").static("sess-2")) == "sess-2"
    bound: Any = in_session("sess")(
        SimpleNamespace(run=lambda sess: (sess, current_session_id())).run
    )
    assert bound("sess-3") == ("sess-3", "sess-3")


def take(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return current_session_id(), args, kwargs


@in_session("session_id")
def with_default(prompt: str, session_id: str = "default") -> Any:
    return take(prompt, session_id)


@in_session("session_id")
def keyword_only(*args: Any, session_id: str, **kwargs: Any) -> Any:
    return take(*args, session_id, **kwargs)


@in_session("session_id")
def positional_only(session_id: str, /, **kwargs: Any) -> Any:
    return take(session_id, **kwargs)


@in_session("sess.meta.id")
def dotted(prompt: str, sess: Any) -> Any:
    return take(prompt, sess)


@in_session(lambda *args, **kwargs: args[-1] or kwargs["fallback"])
def found_by_callable(*args: Any, **kwargs: Any) -> Any:
    return take(*args, **kwargs)


@in_session("fn")
def named_like_ours(fn: str, of: str = "", self: str = "", **kwargs: Any) -> Any:
    return take(fn, of, self, **kwargs)


SESS = SimpleNamespace(meta=SimpleNamespace(id="sess-1"))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: with_default("hi", "sess-1"), ("sess-1", ("hi", "sess-1"), {})),
        (lambda: with_default(session_id="sess-1", prompt="hi"), ("sess-1", ("hi", "sess-1"), {})),
        (lambda: with_default("hi"), ("default", ("hi", "default"), {})),
        (
            lambda: keyword_only("a", "b", session_id="sess-1", c=1),
            ("sess-1", ("a", "b", "sess-1"), {"c": 1}),
        ),
        (lambda: positional_only("a", session_id="b"), ("a", ("a",), {"session_id": "b"})),
        (lambda: dotted("hi", SESS), ("sess-1", ("hi", SESS), {})),
        (lambda: dotted(sess=SESS, prompt="hi"), ("sess-1", ("hi", SESS), {})),
        (lambda: found_by_callable(1, "sess-1", x=2), ("sess-1", (1, "sess-1"), {"x": 2})),
        (
            lambda: found_by_callable(None, fallback="sess-1"),
            ("sess-1", (None,), {"fallback": "sess-1"}),
        ),
        (
            lambda: named_like_ours("sess-1", "o", self="s", args=1),
            ("sess-1", ("sess-1", "o", "s"), {"args": 1}),
        ),
    ],
)
def test_the_id_is_found_among_the_arguments_which_arrive_unchanged(
    call: Callable[[], Any], expected: Any
) -> None:
    assert call() == expected


def test_a_function_whose_parameters_cannot_be_read_takes_a_callable() -> None:
    with pytest.raises(TypeError, match=r"in_session\('key'\): .*; give a callable instead"):
        in_session("key")(max)
    assert in_session(lambda *_: "sess-1")(max)(1, 2) == 2


def test_an_attribute_that_the_argument_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="meta"):
        dotted("hi", SimpleNamespace())


@pytest.mark.parametrize("fn", KINDS)
@pytest.mark.parametrize(
    "of",
    [
        "sess",
        "args",
        "",
        ".",
        ".session_id",
        "session_id.",
        "session_id..x",
        "session_id.1d",
        "session_id x",
        " ",
    ],
)
def test_a_wrong_name_fails_at_decoration_and_lists_the_right_ones(
    fn: Callable[..., Any], of: str
) -> None:
    with pytest.raises(TypeError) as refusal:
        in_session(of)(fn)
    assert repr(of) in str(refusal.value)
    assert fn.__name__ in str(refusal.value)
    assert str(refusal.value).endswith("it has session_id")


def test_all_the_right_names_are_listed() -> None:
    with pytest.raises(TypeError, match=r"it has question, key$"):
        in_session("session_id")(lambda question, *args, key, **kwargs: None)


@pytest.mark.parametrize("of", ["args", "kwargs", "args.session_id"])
def test_collected_arguments_have_no_name_of_their_own(of: str) -> None:
    with pytest.raises(
        TypeError, match=rf"in_session\('{of}'\): <function take at .*> has no such .* it has none"
    ):
        in_session(of)(take)


@pytest.mark.parametrize("of", [None, 7, b"session_id", ["session_id"], SimpleNamespace()])
def test_of_is_a_name_a_path_or_a_callable(of: Any) -> None:
    kind = type(of).__name__
    with pytest.raises(TypeError, match=f"takes a name, a dotted path or a callable, got {kind}$"):
        in_session(of)


@pytest.mark.parametrize(
    "thing",
    [
        None,
        "text",
        SimpleNamespace(),
        type("Agent", (), {}),
        staticmethod(function),
        classmethod(print),
    ],
)
@pytest.mark.parametrize("of", ["session_id", lambda: None])
def test_what_is_no_function_is_refused_with_the_remedy(thing: Any, of: Any) -> None:
    kind = type(thing).__name__
    with pytest.raises(
        TypeError, match=rf"decorates functions \(below @staticmethod\), not {kind}$"
    ):
        in_session(of)(thing)


def test_nothing_leaks_to_the_consumer_between_two_steps() -> None:
    stream = run_loop("sess-1")
    assert (next(stream), current_session_id()) == ("sess-1", None)
    with session_scope("consumer"):
        assert (next(stream), current_session_id()) == ("sess-1", "consumer")
        other = run_loop("sess-2")
        assert (next(other), next(stream), next(other)) == ("sess-2", "sess-1", "sess-2")
        assert current_session_id() == "consumer"
    assert (next(stream), next(other), current_session_id()) == ("sess-1", "sess-2", None)


def test_a_scope_that_the_consumer_opens_and_closes_between_steps_is_its_own() -> None:
    stream, scope = run_loop("sess-1"), session_scope("consumer")
    scope.__enter__()
    assert next(stream) == "sess-1"
    scope.__exit__()
    assert (next(stream), current_session_id()) == ("sess-1", None)


def test_a_body_that_leaves_its_consumers_scope_changes_nothing() -> None:
    scope = session_scope("consumer")

    @in_session("session_id")
    def run_loop(session_id: str) -> Iterator[str | None]:
        scope.__exit__()
        yield current_session_id()

    with scope:
        assert (next(run_loop("sess-1")), current_session_id()) == ("sess-1", "consumer")


def test_a_scope_in_the_body_around_a_yield_stays_in_the_body() -> None:
    """A run loop that hands over to a sub-session, within ``with session_scope(sub.id)``."""

    @in_session("session_id")
    def run_loop(session_id: str) -> Iterator[str | None]:
        yield current_session_id()
        with session_scope(f"{session_id}/sub"):
            yield current_session_id()
            yield current_session_id()
        yield current_session_id()

    @in_session("session_id")
    async def async_run_loop(session_id: str) -> AsyncIterator[str | None]:
        yield current_session_id()
        with session_scope(f"{session_id}/sub"):
            yield current_session_id()
            yield current_session_id()
        yield current_session_id()

    async def collect() -> list[Any]:
        return [(inside, current_session_id()) async for inside in async_run_loop("s")]

    with session_scope("consumer"):
        seen = [(inside, current_session_id()) for inside in run_loop("s")]
        assert seen == [
            ("s", "consumer"),
            ("s/sub", "consumer"),
            ("s/sub", "consumer"),
            ("s", "consumer"),
        ]
        assert asyncio.run(collect()) == seen


def test_a_sub_session_is_a_call_of_the_run_loop_in_itself() -> None:
    @in_session("session_id")
    def run_loop(session_id: str, depth: int = 2) -> Generator[str | None, None, int]:
        yield current_session_id()
        below = (yield from run_loop(f"{session_id}/sub", depth - 1)) if depth else 0
        yield current_session_id()
        return below + 1

    def consume() -> Generator[str | None, None, None]:
        depth = yield from run_loop("s")
        assert depth == 3

    assert list(consume()) == ["s", "s/sub", "s/sub/sub", "s/sub/sub", "s/sub", "s"]


def test_the_session_is_fixed_when_the_generator_starts() -> None:
    sess = SimpleNamespace(id="created")

    @in_session("sess.id")
    def run_loop(sess: SimpleNamespace) -> Iterator[str | None]:
        yield current_session_id()
        sess.id = "changed"
        yield current_session_id()

    stream = run_loop(sess)
    sess.id = "started"
    assert list(stream) == ["started", "started"]


@pytest.mark.parametrize(
    "advance",
    [
        pytest.param(lambda stream, seen: seen.append(next(stream)), id="here"),
        pytest.param(
            lambda stream, seen: Context().run(lambda: seen.append(next(stream))),
            id="in a fresh context",
        ),
        pytest.param(
            lambda stream, seen: copy_context().run(lambda: seen.append(next(stream))),
            id="in a copy",
        ),
        pytest.param(
            lambda stream, seen: in_thread(lambda: seen.append(next(stream))), id="in a thread"
        ),
    ],
)
def test_a_generator_may_move_between_contexts_and_threads(
    advance: Callable[[Any, list[Any]], None],
) -> None:
    stream: Iterator[str | None] = run_loop("sess-1")
    seen: list[str | None] = [next(stream)]
    with session_scope("consumer"):
        advance(stream, seen)
        seen.append(current_session_id())
        advance(stream, seen)
    seen.append(current_session_id())
    assert seen == ["sess-1", "sess-1", "consumer", "sess-1", None]


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="close() returns the generator's value from Python 3.13 on"
)
def test_close_returns_the_generators_value() -> None:
    @in_session("session_id")
    def run_loop(session_id: str) -> Generator[None, None, str | None]:
        with contextlib.suppress(GeneratorExit):
            yield
        return f"closed in {current_session_id()}"

    stream: Any = run_loop("sess-1")
    next(stream)
    assert stream.close() == "closed in sess-1"


@pytest.mark.parametrize("in_cycle", [False, True], ids=["dropped", "dropped in a cycle"])
def test_a_dropped_generator_cleans_up_in_its_session(in_cycle: bool) -> None:
    seen: list[str | None] = []

    class Agent:
        stream: Any

        @in_session("session_id")
        def run(self, session_id: str) -> Iterator[str]:
            try:
                yield session_id
            finally:
                seen.append(current_session_id())

    agent = Agent()
    stream = agent.run("sess-1")
    next(stream)
    if in_cycle:
        agent.stream = stream
    with session_scope("consumer"):
        del stream, agent
        gc.collect()
        seen.append(current_session_id())
    assert seen == ["sess-1", "consumer"]


class Interruption(Exception):  # noqa: N818 - what a consumer throws need be no error
    pass


@pytest.mark.parametrize("caught", [False, True])
def test_a_thrown_exception_is_not_kept_alive(caught: bool) -> None:
    @in_session("session_id")
    def run_loop(session_id: str) -> Iterator[None]:
        with contextlib.suppress(Interruption if caught else EOFError):
            yield
        yield

    stream: Any = run_loop("sess-1")
    next(stream)
    with without_gc():
        thrown = Interruption()
        alive = weakref.ref(thrown)
        with contextlib.suppress(Interruption):
            stream.throw(thrown)
        del thrown
        assert alive() is None


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """So that only reference counts free what is freed."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Stream:
    """An agent whose asynchronous generator awaits while it cleans up, and what it saw there."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []
        self.cleaned_up = asyncio.Event()
        self.open: Any = None

    @in_session("session_id")
    async def run(self, session_id: str) -> AsyncGenerator[str | None, None]:
        try:
            for _ in session_id:
                await asyncio.sleep(0)
                yield current_session_id()
        finally:
            self.seen.append(current_session_id())
            await asyncio.sleep(0)
            self.seen.append(current_session_id())
            self.cleaned_up.set()


def run_quietly(main: Callable[[], Awaitable[None]]) -> None:
    """Run *main* like a program, and fail if the event loop has anything to report."""
    reports: list[dict[str, Any]] = []

    async def program() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, report: reports.append(report)
        )
        await main()

    asyncio.run(program())
    assert reports == []


def test_a_step_that_forked_leaves_the_child_in_no_session() -> None:
    """The child's half alone: the hook empties the scopes there. See test_carrying for the whole."""

    @in_session("session_id")
    def forking(session_id: str) -> Iterator[str | None]:
        context._start_in_no_session()  # as in the child
        yield current_session_id()
        yield current_session_id()

    def child() -> None:
        with session_scope("consumer"):
            steps = forking("sess-1")
            next(steps)
            assert current_session_id() is None
            assert next(steps) is None

    copy_context().run(child)


def test_a_suspended_generator_does_not_keep_the_context_of_its_last_step_alive() -> None:
    class Large:
        pass

    variable: ContextVar[Large] = ContextVar("variable")
    large = Large()
    gone = weakref.ref(large)
    stream = run_loop("sess-1")
    context = copy_context()
    context.run(variable.set, large)
    context.run(next, stream)
    del large, context
    gc.collect()
    assert gone() is None
    assert next(stream) == "sess-1"


def test_nothing_leaks_to_the_consumer_of_an_async_generator() -> None:
    async def main() -> None:
        stream, other = Stream().run("sess-1"), Stream().run("sess-2")
        assert (await stream.__anext__(), current_session_id()) == ("sess-1", None)
        with session_scope("consumer"):
            assert (await other.__anext__(), current_session_id()) == ("sess-2", "consumer")
            assert (await stream.__anext__(), current_session_id()) == ("sess-1", "consumer")
        assert (await other.__anext__(), current_session_id()) == ("sess-2", None)
        await other.aclose()
        await stream.aclose()
        assert current_session_id() is None

    run_quietly(main)


def test_an_async_generator_may_be_closed_by_another_task() -> None:
    async def main() -> None:
        agent = Stream()
        stream = agent.run("sess-1")

        async def start() -> str | None:
            with session_scope("starter"):
                await stream.__anext__()
                return current_session_id()

        async def close() -> str | None:
            with session_scope("closer"):
                await stream.aclose()
                return current_session_id()

        assert [await asyncio.create_task(start()), await asyncio.create_task(close())] == [
            "starter",
            "closer",
        ]
        assert agent.seen == ["sess-1", "sess-1"]

    run_quietly(main)


def test_an_async_generator_left_open_is_closed_in_its_session_when_the_loop_ends() -> None:
    agents = [Stream(), Stream()]
    kept_open = []

    async def main() -> None:
        for number, agent in enumerate(agents):
            kept_open.append(agent.run(f"sess-{number}"))
            await kept_open[-1].__anext__()

    run_quietly(main)
    assert [agent.seen for agent in agents] == [["sess-0", "sess-0"], ["sess-1", "sess-1"]]


@pytest.mark.parametrize("in_cycle", [False, True], ids=["dropped", "dropped in a cycle"])
def test_a_dropped_async_generator_is_closed_in_its_session(in_cycle: bool) -> None:
    """Also where an agent keeps its own stream: then the garbage collector finalizes all of the cycle at once."""

    async def main() -> None:
        agent = Stream()
        seen, cleaned_up = agent.seen, agent.cleaned_up
        with session_scope("consumer"):
            stream = agent.run("sess-1")
            async for _ in stream:
                break
            if in_cycle:
                agent.open = stream
            del stream, agent
            gc.collect()
            await asyncio.wait_for(cleaned_up.wait(), timeout=2)
            assert current_session_id() == "consumer"
        assert seen == ["sess-1", "sess-1"]

    run_quietly(main)


def test_the_body_of_an_async_generator_has_the_loops_hooks() -> None:
    """The loop must know of the asynchronous generators that the body starts, to close them in the end."""

    @in_session("session_id")
    async def run_loop(session_id: str) -> AsyncIterator[Any]:
        yield sys.get_asyncgen_hooks()

    async def main() -> None:
        hooks = sys.get_asyncgen_hooks()
        assert hooks.firstiter is not None
        assert [hooks_inside async for hooks_inside in run_loop("sess-1")] == [hooks]
        assert sys.get_asyncgen_hooks() == hooks

    run_quietly(main)


def test_an_exception_thrown_into_an_async_generator_is_not_kept_alive() -> None:
    @in_session("session_id")
    async def run_loop(session_id: str) -> AsyncIterator[str]:
        with contextlib.suppress(Interruption):
            yield session_id
        yield session_id

    async def main() -> None:
        stream: Any = run_loop("sess-1")
        await stream.__anext__()
        for _ in "caught", "passed on":
            thrown = Interruption()
            alive = weakref.ref(thrown)
            with contextlib.suppress(Interruption):
                await stream.athrow(thrown)
            del thrown
            assert alive() is None

    with without_gc():
        run_quietly(main)


def test_coroutines_that_run_together_stay_in_their_sessions_across_awaits() -> None:
    ids = ["sess-1", "sess-2", "sess-3"]

    async def main() -> None:
        entered, everyone_is_in = set(), asyncio.Event()

        @in_session("session_id")
        async def run_loop(session_id: str) -> list[str | None]:
            seen = [current_session_id()]
            entered.add(session_id)
            if len(entered) == len(ids):
                everyone_is_in.set()
            await everyone_is_in.wait()
            return [*seen, current_session_id()]

        assert await asyncio.gather(*map(run_loop, ids)) == [[session_id] * 2 for session_id in ids]
        assert await run_loop("sess-4") == ["sess-4"] * 2
        assert current_session_id() is None

    run_quietly(main)


@pytest.mark.parametrize("kind", ["coroutine", "async generator"])
def test_cancelling_reaches_the_body_in_its_session_and_the_caller_in_its_own(kind: str) -> None:
    async def main() -> None:
        waiting, seen = asyncio.Event(), []

        async def wait(_session_id: str) -> None:
            try:
                waiting.set()
                await asyncio.Event().wait()
            finally:
                seen.append(current_session_id())

        async def wait_and_yield(session_id: str) -> AsyncIterator[str]:
            await wait(session_id)
            yield session_id

        async def call() -> None:
            try:
                if kind == "coroutine":
                    await in_session("_session_id")(wait)("sess-1")
                else:
                    await in_session("session_id")(wait_and_yield)("sess-1").__anext__()
            finally:
                seen.append(current_session_id())

        with session_scope("caller"):
            task = asyncio.create_task(call())
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["sess-1", "caller"]

    run_quietly(main)


@pytest.mark.parametrize(
    "start",
    [
        lambda: in_session("session_id")(coroutine)("sess-1"),
        lambda: in_session("session_id")(async_generator)("sess-1").__anext__(),
    ],
    ids=["coroutine", "async generator"],
)
def test_what_ends_in_another_context_changes_nothing_there(start: Callable[[], Any]) -> None:
    """As when a pending task is dropped, and the garbage collector closes its coroutine wherever it happens to run."""
    suspended = start()
    Context().run(suspended.send, None)
    with session_scope("elsewhere"):
        with pytest.raises(GeneratorExit):
            suspended.throw(GeneratorExit())
        assert current_session_id() == "elsewhere"
    assert current_session_id() is None


def test_an_error_passes_unchanged_and_the_caller_is_back_in_its_session() -> None:
    raised = LookupError("in the body")

    @in_session("session_id")
    def function(session_id: str) -> None:
        raise raised

    @in_session("session_id")
    async def coroutine(session_id: str) -> None:
        function(session_id)

    with session_scope("caller"):
        for call in function, coroutine:
            with pytest.raises(LookupError) as caught:
                seen_in(call("sess-1"))
            assert caught.value is raised
            assert current_session_id() == "caller"


# Decorated or not: a body reacts by a script to what comes in at each of its yields, and a consumer takes steps by
# another. Both notice the same; but decorated, the body is in its own session and never in the consumer's.

SCRIPTS = st.lists(
    st.just("go on") | st.sampled_from(["let through", "raise", "chain", "return"]), max_size=5
)
THROWN = [
    Interruption,
    KeyError,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    KeyboardInterrupt,
]
STEPS = st.lists(
    st.just(("next",))
    | st.tuples(st.just("send"), st.integers() | st.none())
    | st.tuples(st.just("throw"), st.sampled_from(THROWN))
    | st.just(("close",)),
    max_size=8,
)


class Body:
    """One run of a scripted body, and what it noticed."""

    def __init__(self, script: list[str]) -> None:
        self.script = script
        self.noticed: list[Any] = []
        self.sessions: set[str | None] = set()

    def notice(self, *what: Any) -> None:
        self.noticed.append(what)
        self.sessions.add(current_session_id())

    def generator(self, session_id: str) -> Generator[Any, Any, Any]:
        self.notice("started", session_id)
        try:
            for number, reaction in enumerate(self.script):
                try:
                    got = yield number
                except BaseException as error:
                    got = repr(error)
                    if reaction == "let through":
                        raise
                    if reaction == "chain":
                        raise RuntimeError(number) from error
                self.notice(number, got)
                if reaction == "raise":
                    raise LookupError(got)
                if reaction == "return":
                    return got
        finally:
            self.notice("finished")
        return "the end"

    async def async_generator(self, session_id: str) -> AsyncGenerator[Any, Any]:
        reactions = self.generator(session_id)  # the same, with an await before each
        react: tuple[str, Any] = "send", None
        while True:
            await asyncio.sleep(0)
            try:
                item = step(reactions, *react)
            except StopIteration as stop:
                self.notice(stop.value)
                return
            try:
                react = "send", (yield item)
            except BaseException as error:  # noqa: BLE001 - the script says what to let through
                react = "throw", error


def step(stream: Any, name: str, *arguments: Any) -> Any:
    """Take one step of a generator: by the name that it has there, or that it has in an asynchronous one."""
    method = {"next": "__next__"}.get(name, name)
    if inspect.isasyncgen(stream):
        method = {"next": "__anext__"}.get(name, f"a{name}")
    return getattr(stream, method)(*arguments)


async def consume(stream: Any, steps: list[Any], sessions: set[str | None]) -> list[Any]:
    """Take the steps, and then as many as bring every script to its end; return what came of each."""
    outcomes: list[Any] = []
    for name, *arguments in [*steps, *[("next",)] * 6, ("close",)]:
        thrown = [argument() for argument in arguments] if name == "throw" else arguments
        try:
            result = step(stream, name, *thrown)
            outcomes.append(await result if inspect.isawaitable(result) else result)
        except BaseException as error:  # noqa: BLE001 - whatever it is, both must give it
            value = error.value if isinstance(error, StopIteration) else None
            chain = repr(error.__cause__), repr(error.__context__)
            outcomes.append((type(error), str(error), value, error in thrown, chain))
        sessions.add(current_session_id())
    return outcomes


@pytest.mark.parametrize("kind", [Body.generator, Body.async_generator])
@settings(max_examples=300, deadline=None)
@given(script=SCRIPTS, steps=STEPS)
@example(
    script=["go on"] * 5,
    steps=[("next",), ("send", 7), ("throw", KeyError), ("close",), ("send", 8)],
)
@example(script=["go on", "return"], steps=[("next",), ("send", 7), ("close",)])
@example(script=["let through"], steps=[("next",), ("throw", StopIteration)])
@example(script=["chain"], steps=[("next",), ("throw", KeyError)])
def test_a_decorated_generator_behaves_as_the_undecorated_one(
    kind: Callable[[Body, str], Any], script: list[str], steps: list[Any]
) -> None:
    plain, scoped, consumers = Body(script), Body(script), set[str | None]()

    async def main() -> None:
        expected = await consume(kind(plain, "sess-1"), steps, consumers)
        assert (
            await consume(in_session("session_id")(kind)(scoped, "sess-1"), steps, consumers)
            == expected
        )

    with session_scope("consumer"):
        asyncio.run(main())
    assert scoped.noticed == plain.noticed
    assert scoped.sessions <= {"sess-1"}
    assert consumers == {"consumer"}


# Coroutines that are driven by hand


class Pause:
    """What a coroutine awaits to hand over to its driver."""

    def __await__(self) -> Generator[str, str, str]:
        return (yield "paused")


@in_session("session_id")
async def paused(session_id: str) -> list[Any]:
    seen: list[Any] = [current_session_id()]
    seen.append(await Pause())
    try:
        await Pause()
    except KeyError:
        seen.append(current_session_id())
    with session_scope(f"{session_id}/sub"):
        await Pause()
        seen.append(current_session_id())
    return seen


def test_the_driver_of_a_coroutine_is_not_in_its_session() -> None:
    with session_scope("driver"):
        run = paused("sess-1")
        assert [run.send(None), current_session_id()] == ["paused", "driver"]
        assert [run.send("sent"), current_session_id()] == ["paused", "driver"]
        assert [run.throw(KeyError()), current_session_id()] == ["paused", "driver"]
        with pytest.raises(StopIteration) as stopped:
            run.send(None)
        assert current_session_id() == "driver"
    assert stopped.value.value == ["sess-1", "sent", "sess-1", "sess-1/sub"]


def test_coroutines_that_are_driven_in_turn_keep_to_their_sessions() -> None:
    runs = {session_id: paused(session_id) for session_id in ("sess-1", "sess-2")}
    for run in runs.values():
        run.send(None)
    for run in reversed(runs.values()):
        run.send("sent")
    for run in runs.values():
        run.throw(KeyError())
    for session_id, run in runs.items():
        with pytest.raises(StopIteration) as stopped:
            run.send(None)
        assert stopped.value.value == [session_id, "sent", session_id, f"{session_id}/sub"]
        assert current_session_id() is None


def test_the_driver_of_an_async_generator_is_not_in_its_session() -> None:
    @in_session("session_id")
    async def stream(session_id: str) -> AsyncIterator[str | None]:
        await Pause()
        yield current_session_id()

    step = stream("sess-1").__anext__()
    assert [step.send(None), current_session_id()] == ["paused", None]  # type: ignore[attr-defined] # it has one
    with pytest.raises(StopIteration) as stopped:
        step.send(None)  # type: ignore[attr-defined] # likewise
    assert (stopped.value.value, current_session_id()) == ("sess-1", None)


def test_a_marked_function_that_returns_an_awaitable_is_called_and_awaited_in_the_session() -> None:
    """Such as a future. ``inspect.markcoroutinefunction`` is new in Python 3.12."""
    seen: list[str | None] = []

    def starts(session_id: str) -> Awaitable[str]:
        seen.append(current_session_id())
        future = asyncio.get_running_loop().create_future()
        future.set_result("done")
        return future

    mark = getattr(inspect, "markcoroutinefunction", lambda fn: fn)

    async def main() -> None:
        assert await in_session("session_id")(mark(starts))("sess-1") == "done"

    asyncio.run(main())
    assert seen == ["sess-1"]


# Signal handlers that raise exceptions


class Alarm(Exception):  # noqa: N818 - a signal
    pass


def alarmed_after(call: Callable[[], Any], number: int) -> bool:
    """Make *call*. Raise Alarm where a handler can, for the *number*-th time in ``context.py``.

    Python runs signal handlers after a call of a C function, among others. Tell whether there was
    such a place.
    """
    places = 0

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal places
        if frame.f_code.co_filename == context.__file__ and event == "c_return":
            places += 1
            if places == number:
                raise Alarm

    before = sys.getprofile()
    gc.collect()
    gc.disable()  # a generator of another test may not be closed meanwhile
    sys.setprofile(profile)
    try:
        call()
    except Alarm:
        return True
    finally:
        sys.setprofile(before)
        gc.enable()
    return False


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # interrupted before
@pytest.mark.parametrize("kind", ["generator", "coroutine"])
def test_the_consumer_is_not_left_in_the_session_by_a_signal_handlers_exception(kind: str) -> None:
    @in_session("session_id")
    def numbers(session_id: str) -> Iterator[int]:
        yield from range(3)

    def consume() -> None:
        if kind == "generator":
            assert list(numbers("sess-1")) == [0, 1, 2]
        else:
            run = paused("sess-1")
            run.send(None)
            run.send("sent")
            run.throw(KeyError())
            with contextlib.suppress(StopIteration):
                run.send(None)

    with session_scope("consumer"):
        number = 1
        while alarmed_after(consume, number):
            assert current_session_id() == "consumer", f"after place {number}"
            number += 1
    assert number > 10


# Decorators without parentheses


def test_without_parentheses_it_is_a_type_error_at_decoration() -> None:
    with pytest.raises(TypeError, match=r'write @in_session\("name_of_a_parameter"\)$'):

        @in_session
        def run_loop(sess: Any) -> None: ...

    with pytest.raises(TypeError, match="name_of_a_parameter"):

        @in_session  # type: ignore[arg-type] # likewise
        async def run(sess: Any) -> None: ...

    with pytest.raises(TypeError, match="name_of_a_parameter"):

        class Agent:
            @in_session
            def run_loop(self) -> None: ...  # type: ignore[misc] # likewise

    with pytest.raises(TypeError, match="name_of_a_parameter"):

        @in_session
        @functools.cache
        def cached(sess: str) -> str:
            return sess


def test_without_parentheses_it_is_an_error_at_a_modules_top_and_in_an_interpreter_too() -> None:
    source = "from cagent_session import in_session\n@in_session\ndef run_loop(sess): ...\n"
    for name in ("module.py", "<stdin>"):
        for namespace in ({}, {"run_loop": "an older one"}, {"run_loop": function}):
            with pytest.raises(TypeError, match="name_of_a_parameter"):
                exec(compile(source, name, "exec"), dict(namespace))


def test_a_function_that_finds_the_id_may_be_defined_anywhere() -> None:
    def session_id_of(sess: Any) -> Any:
        return sess.id

    @functools.wraps(session_id_of)
    def wrapped(sess: Any) -> Any:
        return sess.id

    def made() -> Callable[..., Any]:
        return lambda sess: sess.id

    finders: list[Any] = [session_id_of, wrapped, made(), lambda sess: sess.id]
    for find in finders:

        @in_session(find)
        def run_loop(sess: Any) -> str | None:
            return current_session_id()

        assert run_loop(SimpleNamespace(id="sess-1")) == "sess-1"


def test_an_annotation_that_can_not_be_evaluated_does_no_harm() -> None:
    """Since Python 3.14 annotations are evaluated when they are asked for."""
    source = """
@in_session("sess.id")
def run_loop(sess: ImportedForTypeCheckersOnly) -> ImportedForTypeCheckersOnly:
    return current_session_id()
"""
    if sys.version_info < (3, 14):
        source = "from __future__ import annotations\n" + source
    names = {"in_session": in_session, "current_session_id": current_session_id}
    exec(compile(source, "module.py", "exec", dont_inherit=True), names)
    run_loop: Any = names["run_loop"]
    assert run_loop(SimpleNamespace(id="sess-1")) == "sess-1"


def test_a_function_that_finds_the_id_may_have_a_private_or_a_global_name() -> None:
    class Agent:
        id = "sess-1"

        def __session_id(self) -> str:
            return self.id

        @in_session(__session_id)
        def run(self) -> str | None:
            return current_session_id()

    source = """
def set_up():
    global find
    def find(sess):
        return sess
    @in_session(find)
    def run(sess):
        return current_session_id()
    return run
"""
    names: dict[str, Any] = {"in_session": in_session, "current_session_id": current_session_id}
    exec(source, names)
    assert Agent().run() == names["set_up"]()("sess-1") == "sess-1"


def test_a_function_that_finds_the_id_may_be_one_of_several_that_were_defined_in_a_loop() -> None:
    finders: list[Any] = []
    for attribute in ("id", "parent"):

        def find(sess: Any, attribute: str = attribute) -> Any:
            return getattr(sess, attribute)

        finders.append(find)

    @in_session(finders[0])
    def run(sess: Any) -> str | None:
        return current_session_id()

    assert run(SimpleNamespace(id="sess-1", parent="sess-0")) == "sess-1"


@pytest.mark.parametrize("fn", [function, generator, coroutine, async_generator])
def test_a_decorated_function_can_be_pickled_by_value(fn: Callable[..., Any]) -> None:
    """As Dask, Ray and joblib do with local functions: the context variable can't be pickled."""
    found, names = [in_session("session_id")(fn)], set[str]()
    for wrapper in found:
        names |= set(wrapper.__code__.co_names)
        cells = [cell.cell_contents for cell in wrapper.__closure__ or ()]
        found += [cell for cell in cells if inspect.isfunction(cell) and cell not in found]
    assert "_current" not in names
    assert len(found) > 1
