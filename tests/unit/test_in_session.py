"""Tests of ``in_session``: each call runs in its session, and all else stays the same."""

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
    """Yield the current session ID forever."""
    while session_id:
        yield current_session_id()


def seen_in(result: Any) -> Any:
    """Run the result of a function of any kind to its end. Return the session that it saw."""

    async def collect() -> list[Any]:
        return [item async for item in result]

    if inspect.iscoroutine(result):
        return asyncio.run(result)
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        (seen,) = asyncio.run(collect()) if inspect.isasyncgen(result) else result
        return seen
    return result


@pytest.mark.parametrize("fn", KINDS + CALLABLES)
@pytest.mark.parametrize(
    "of", ["session_id", "session_id.__str__.__self__", lambda session_id: session_id]
)
def test_only_the_body_runs_in_the_session(fn: Any, of: Any) -> None:
    decorated = in_session(of)(fn)
    with session_scope("consumer"):
        assert seen_in(decorated("sess-1")) == "sess-1"
        assert current_session_id() == "consumer"
        assert seen_in(decorated(session_id="sess-2")) == "sess-2"
        assert current_session_id() == "consumer"
    assert current_session_id() is None


@pytest.mark.parametrize("fn", KINDS)
def test_an_id_of_none_means_no_session(fn: Any) -> None:
    with session_scope("consumer"):
        assert seen_in(in_session("session_id")(fn)(None)) is None
        assert current_session_id() == "consumer"


@pytest.mark.parametrize("fn", KINDS)
def test_an_invalid_id_is_refused_and_the_body_never_starts(fn: Any) -> None:
    with session_scope("consumer"):
        with pytest.raises(InvalidSessionId, match="a space at position 4"):
            seen_in(in_session("session_id")(fn)("sess 1"))
        assert current_session_id() == "consumer"


@pytest.mark.parametrize("fn", KINDS)
@pytest.mark.parametrize("of", ["session_id", lambda *args, **kwargs: "sess-1"])
@pytest.mark.parametrize(("args", "kwargs"), [((), {}), (("a", "b"), {}), (("a",), {"unknown": 1})])
def test_wrong_arguments_are_a_type_error(
    fn: Any, of: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match="argument"):
        seen_in(in_session(of)(fn)(*args, **kwargs))
    assert current_session_id() is None


@pytest.mark.parametrize("fn", KINDS)
def test_kind_name_docstring_and_signature_are_kept(fn: Any) -> None:
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
def test_a_partial_is_of_the_kind_of_its_function(fn: Any) -> None:
    partial = functools.partial(fn, session_id="sess-1")
    assert seen_in(in_session("session_id")(partial)()) == "sess-1"


@pytest.mark.parametrize("fn", KINDS)
def test_methods_of_every_kind_can_be_decorated(fn: Any) -> None:
    class Agent:
        id = "agent"

        def __init__(self, session_id: str) -> None:
            self.sess = SimpleNamespace(id=session_id)

        @in_session("self.sess.id")
        def run(self) -> Any:
            return current_session_id()

        @classmethod
        @in_session("cls.id")
        def of_the_class(cls) -> Any:
            return current_session_id()

        def plain(self, session_id: str) -> Any:
            return session_id, current_session_id()

        static = staticmethod(in_session("session_id")(fn))

    assert Agent("sess-1").run() == "sess-1"
    assert Agent.of_the_class() == "agent"
    assert seen_in(Agent.static("sess-2")) == seen_in(Agent("sess-1").static("sess-2")) == "sess-2"
    assert in_session("session_id")(Agent("sess-1").plain)("sess-3") == ("sess-3", "sess-3")


def echo(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return current_session_id(), args, kwargs


def with_default(prompt: str, session_id: str = "sess-1") -> Any:
    return echo(prompt, session_id)


def keyword_only(*args: Any, session_id: str, **kwargs: Any) -> Any:
    return echo(*args, session_id, **kwargs)


def positional_only(session_id: str, /, **kwargs: Any) -> Any:
    return echo(session_id, **kwargs)


def named_as_in_our_code(fn: str, of: str = "", self: str = "", **kwargs: Any) -> Any:
    return echo(fn, of, self, **kwargs)


def with_object(prompt: str, sess: Any) -> Any:
    return echo(prompt, sess)


def id_of(*args: Any, **kwargs: Any) -> Any:
    return args[-1] or kwargs["fallback"]


SESS = SimpleNamespace(meta=SimpleNamespace(id="sess-1"))


@pytest.mark.parametrize(
    ("of", "fn", "args", "kwargs"),
    [
        ("session_id", with_default, ("hi", "sess-1"), {}),
        ("session_id", with_default, (), {"session_id": "sess-1", "prompt": "hi"}),
        ("session_id", with_default, ("hi",), {}),
        ("session_id", keyword_only, ("a", "b"), {"session_id": "sess-1", "c": 1}),
        ("session_id", positional_only, ("sess-1",), {"session_id": "b"}),
        ("sess.meta.id", with_object, ("hi", SESS), {}),
        ("sess.meta.id", with_object, (), {"sess": SESS, "prompt": "hi"}),
        (id_of, echo, (1, "sess-1"), {"x": 2}),
        (id_of, echo, (None,), {"fallback": "sess-1"}),
        ("fn", named_as_in_our_code, ("sess-1", "o"), {"self": "s", "args": 1}),
    ],
)
def test_the_id_is_found_and_the_arguments_arrive_unchanged(
    of: Any, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert in_session(of)(fn)(*args, **kwargs) == ("sess-1", *fn(*args, **kwargs)[1:])


def test_if_the_parameters_can_not_be_read_a_callable_is_needed() -> None:
    with pytest.raises(TypeError, match=r"in_session\('key'\): .*; give a callable instead"):
        in_session("key")(max)
    assert in_session(lambda *_: "sess-1")(max)(1, 2) == 2


def test_an_attribute_that_the_argument_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="meta"):
        in_session("sess.meta.id")(with_object)("hi", SimpleNamespace())


WRONG_NAMES = "sess|args||.|.session_id|session_id.|session_id..x|session_id.1d|session_id x| "


@pytest.mark.parametrize("fn", KINDS)
@pytest.mark.parametrize("of", WRONG_NAMES.split("|"))
def test_a_wrong_name_fails_at_decoration_and_lists_the_right_ones(fn: Any, of: str) -> None:
    with pytest.raises(TypeError) as refusal:
        in_session(of)(fn)
    assert repr(of) in str(refusal.value)
    assert fn.__name__ in str(refusal.value)
    assert str(refusal.value).endswith("it has session_id")


@pytest.mark.parametrize(
    ("fn", "names"),
    [(echo, "none"), (lambda question, *args, key, **kwargs: None, "question, key")],
)
@pytest.mark.parametrize("of", ["args", "kwargs", "args.session_id"])
def test_arguments_collected_by_args_or_kwargs_can_not_be_named(
    fn: Any, names: str, of: str
) -> None:
    problem = rf"in_session\('{of}'\): <function .*> has no such parameter; it has {names}$"
    with pytest.raises(TypeError, match=problem):
        in_session(of)(fn)


@pytest.mark.parametrize("of", [None, 7, b"session_id", ["session_id"], SimpleNamespace()])
def test_of_must_be_a_name_a_path_or_a_callable(of: Any) -> None:
    kind = type(of).__name__
    with pytest.raises(TypeError, match=f"takes a name, a dotted path or a callable, got {kind}$"):
        in_session(of)


@pytest.mark.parametrize(
    "thing", [None, "text", SimpleNamespace(), int, staticmethod(function), classmethod(print)]
)
@pytest.mark.parametrize("of", ["session_id", lambda: None])
def test_only_functions_can_be_decorated(thing: Any, of: Any) -> None:
    problem = f"decorates functions, got {type(thing).__name__}; put it below @staticmethod$"
    with pytest.raises(TypeError, match=problem):
        in_session(of)(thing)


def test_between_two_steps_the_consumer_is_in_its_own_session() -> None:
    stream = run_loop("sess-1")
    assert (next(stream), current_session_id()) == ("sess-1", None)
    with session_scope("consumer"):
        assert (next(stream), current_session_id()) == ("sess-1", "consumer")
        other = run_loop("sess-2")
        assert (next(other), next(stream), next(other)) == ("sess-2", "sess-1", "sess-2")
        assert current_session_id() == "consumer"
    assert (next(stream), next(other), current_session_id()) == ("sess-1", "sess-2", None)


def test_the_consumer_may_open_a_scope_before_a_step_and_close_it_after() -> None:
    stream, scope = run_loop("sess-1"), session_scope("consumer")
    scope.__enter__()
    assert next(stream) == "sess-1"
    scope.__exit__()
    assert (next(stream), current_session_id()) == ("sess-1", None)


def test_a_body_can_not_close_its_consumers_scope() -> None:
    scope = session_scope("consumer")

    @in_session("session_id")
    def run_loop(session_id: str) -> Iterator[str | None]:
        scope.__exit__()
        yield current_session_id()

    with scope:
        assert (next(run_loop("sess-1")), current_session_id()) == ("sess-1", "consumer")


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_scope_in_the_body_around_a_yield_stays_in_the_body(kind: str) -> None:
    """For example, a run loop may run a sub-session inside ``with session_scope(sub.id)``."""

    def run_loop(session_id: str) -> Iterator[str | None]:
        yield current_session_id()
        with session_scope(f"{session_id}/sub"):
            yield current_session_id()
            yield current_session_id()
        yield current_session_id()

    async def async_run_loop(session_id: str) -> AsyncIterator[str | None]:
        for seen in run_loop(session_id):
            yield seen

    async def collect() -> list[Any]:
        stream = in_session("session_id")(async_run_loop)("s")
        return [(inside, current_session_id()) async for inside in stream]

    with session_scope("consumer"):
        if kind == "generator":
            stream = in_session("session_id")(run_loop)("s")
            seen = [(inside, current_session_id()) for inside in stream]
        else:
            seen = asyncio.run(collect())
    assert seen == [(inside, "consumer") for inside in ("s", "s/sub", "s/sub", "s")]


def test_a_run_loop_may_call_itself_for_a_sub_session() -> None:
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


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda step: step(), id="here"),
        pytest.param(lambda step: Context().run(step), id="in a fresh context"),
        pytest.param(lambda step: copy_context().run(step), id="in a copied context"),
        pytest.param(in_thread, id="in a thread"),
    ],
)
def test_a_generator_may_move_between_contexts_and_threads(run: Callable[[Any], object]) -> None:
    stream: Iterator[str | None] = run_loop("sess-1")
    seen: list[str | None] = [next(stream)]
    with session_scope("consumer"):
        run(lambda: seen.append(next(stream)))
        seen.append(current_session_id())
        run(lambda: seen.append(next(stream)))
    seen.append(current_session_id())
    assert seen == ["sess-1", "sess-1", "consumer", "sess-1", None]


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


class Interruption(Exception):  # noqa: N818 - it is no error
    pass


@pytest.mark.parametrize("kind", ["generator", "async generator"])
@pytest.mark.parametrize("caught", [False, True])
def test_a_thrown_exception_is_not_kept_alive(kind: str, caught: bool) -> None:
    @in_session("session_id")
    def run_loop(session_id: str) -> Iterator[None]:
        with contextlib.suppress(Interruption if caught else EOFError):
            yield
        yield

    @in_session("session_id")
    async def async_run_loop(session_id: str) -> AsyncIterator[None]:
        with contextlib.suppress(Interruption if caught else EOFError):
            yield
        yield

    async def main() -> None:
        stream: Any = (run_loop if kind == "generator" else async_run_loop)("sess-1")
        started = step(stream, "next")
        if kind == "async generator":
            await started
        thrown = Interruption()
        alive = weakref.ref(thrown)
        with contextlib.suppress(Interruption):
            if kind == "generator":
                stream.throw(thrown)
            else:
                await stream.athrow(thrown)
        del thrown
        assert alive() is None

    with without_gc():
        run_quietly(main)


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Turn the garbage collector off, so that only reference counts free objects."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Stream:
    """An agent with an asynchronous generator that awaits and records its session at its end."""

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
    """Run *main* like a program, and fail if the event loop reports a problem."""
    reports: list[dict[str, Any]] = []

    async def program() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, report: reports.append(report)
        )
        await main()

    asyncio.run(program())
    assert reports == []


def test_after_a_fork_in_a_step_the_child_is_in_no_session() -> None:
    """This test calls the hook that runs in a forked child. test_carrying really forks."""

    @in_session("session_id")
    def forking(session_id: str) -> Iterator[str | None]:
        context._leave_all_scopes()  # as Python does in the child
        yield current_session_id()
        with session_scope("body"):
            yield current_session_id()

    def child() -> None:
        with session_scope("consumer"):
            steps = forking("sess-1")
            assert (next(steps), current_session_id()) == (None, None)
            assert (next(steps), current_session_id()) == ("body", None)

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
    """In a cycle, the garbage collector finalizes the agent and its stream together."""

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
    """The loop needs its hooks to register asynchronous generators that the body starts."""

    @in_session("session_id")
    async def run_loop(session_id: str) -> AsyncIterator[Any]:
        yield sys.get_asyncgen_hooks()

    async def main() -> None:
        hooks = sys.get_asyncgen_hooks()
        assert hooks.firstiter is not None
        assert [hooks_inside async for hooks_inside in run_loop("sess-1")] == [hooks]
        assert sys.get_asyncgen_hooks() == hooks

    run_quietly(main)


@pytest.mark.parametrize("kind", ["coroutine", "async generator"])
def test_cancelling_reaches_the_body_in_its_session_and_the_caller_in_its_own(kind: str) -> None:
    async def main() -> None:
        waiting, seen = asyncio.Event(), []

        async def wait(session_id: str) -> None:
            try:
                waiting.set()
                await asyncio.Event().wait()
            finally:
                seen.append(current_session_id())

        async def stream(session_id: str) -> AsyncIterator[None]:
            await wait(session_id)
            yield

        async def call() -> None:
            try:
                if kind == "coroutine":
                    await in_session("session_id")(wait)("sess-1")
                await in_session("session_id")(stream)("sess-1").__anext__()
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
def test_a_coroutine_closed_in_another_context_changes_nothing_there(
    start: Callable[[], Any],
) -> None:
    """The garbage collector may close the coroutine of a dropped task in any context."""
    suspended = start()
    Context().run(suspended.send, None)
    with session_scope("elsewhere"):
        with pytest.raises(GeneratorExit):
            suspended.throw(GeneratorExit())
        assert current_session_id() == "elsewhere"
    assert current_session_id() is None


def test_an_error_passes_unchanged_and_the_caller_is_back_in_its_session() -> None:
    raised = LookupError("in the body")

    def function(session_id: str) -> None:
        raise raised

    async def coroutine(session_id: str) -> None:
        raise raised

    with session_scope("caller"):
        for fn in function, coroutine:
            with pytest.raises(LookupError) as caught:
                seen_in(in_session("session_id")(fn)("sess-1"))
            assert caught.value is raised
            assert current_session_id() == "caller"


# Random bodies and consumers. A script says how the body reacts to each value or error that it
# receives. The consumer takes random steps. A decorated body must notice the same as an undecorated
# one.

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
    """One run of a body with a script. It records what it notices."""

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
        reactions = self.generator(session_id)  # the same steps, with an await before each
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
            except BaseException as error:  # noqa: BLE001 - the script decides on the error
                react = "throw", error


def step(stream: Any, name: str, *arguments: Any) -> Any:
    """Call ``send``, ``throw``, ``close`` or ``next`` of a generator of either kind."""
    method = {"next": "__next__"}.get(name, name)
    if inspect.isasyncgen(stream):
        method = {"next": "__anext__"}.get(name, f"a{name}")
    return getattr(stream, method)(*arguments)


async def consume(stream: Any, steps: list[Any], sessions: set[str | None]) -> list[Any]:
    """Take the steps, and then more until any script has ended. Return the outcomes."""
    outcomes: list[Any] = []
    for name, *arguments in [*steps, *[("next",)] * 6, ("close",)]:
        thrown = [argument() for argument in arguments] if name == "throw" else arguments
        try:
            result = step(stream, name, *thrown)
            outcomes.append(await result if inspect.isawaitable(result) else result)
        except BaseException as error:  # noqa: BLE001 - the test compares all errors
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


# Coroutines that a test drives step by step


class Pause:
    """An awaitable that gives control to the code that drives the coroutine."""

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


def test_the_driver_of_coroutines_is_not_in_their_sessions() -> None:
    runs = {session_id: paused(session_id) for session_id in ("sess-1", "sess-2")}
    with session_scope("driver"):
        for run in runs.values():
            assert [run.send(None), current_session_id()] == ["paused", "driver"]
        for run in reversed(runs.values()):
            assert [run.send("sent"), current_session_id()] == ["paused", "driver"]
        for run in runs.values():
            assert [run.throw(KeyError()), current_session_id()] == ["paused", "driver"]
        for session_id, run in runs.items():
            with pytest.raises(StopIteration) as stopped:
                run.send(None)
            assert stopped.value.value == [session_id, "sent", session_id, f"{session_id}/sub"]
            assert current_session_id() == "driver"


def test_the_driver_of_an_async_generator_is_not_in_its_session() -> None:
    @in_session("session_id")
    async def stream(session_id: str) -> AsyncIterator[str | None]:
        await Pause()
        yield current_session_id()

    step: Any = stream("sess-1").__anext__()
    assert [step.send(None), current_session_id()] == ["paused", None]
    with pytest.raises(StopIteration) as stopped:
        step.send(None)
    assert (stopped.value.value, current_session_id()) == ("sess-1", None)


def test_a_marked_function_that_returns_an_awaitable_is_called_and_awaited_in_the_session() -> None:
    """A future is such an awaitable. ``inspect.markcoroutinefunction`` is new in Python 3.12."""
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
    """Make *call*, and raise Alarm at the place of this *number* in ``context.py``.

    A place is the return from a C function, where Python may run signal handlers. Return whether
    *call* reached this place.
    """
    places = 0

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal places
        if frame.f_code.co_filename == context.__file__ and event == "c_return":
            places += 1
            if places == number:
                raise Alarm

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    except Alarm:
        return True
    finally:
        sys.setprofile(before)
    return False


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # the alarm comes before
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

    gc.collect()  # so no generator of another test is closed later
    with session_scope("consumer"), without_gc():
        number = 1
        while alarmed_after(consume, number):
            assert current_session_id() == "consumer", f"after place {number}"
            number += 1
    assert number > 10


# Decorators without parentheses


@pytest.mark.parametrize(
    "source",
    [
        "@in_session\ndef run_loop(sess): ...",
        "@in_session\nasync def run_loop(sess): ...",
        "@in_session\n@cache\ndef run_loop(sess): ...",
        "class Agent:\n    @in_session\n    def run_loop(self): ...",
        "def make():\n    @in_session\n    def run_loop(sess): ...\nmake()",
    ],
)
@pytest.mark.parametrize("older", [{}, {"run_loop": "an older one"}, {"run_loop": function}])
@pytest.mark.parametrize("name", ["module.py", "<stdin>"])
def test_without_parentheses_it_is_a_type_error_at_decoration(
    source: str, older: dict[str, Any], name: str
) -> None:
    names = {"in_session": in_session, "cache": functools.cache, **older}
    with pytest.raises(
        TypeError, match=r'needs an argument: @in_session\("name_of_a_parameter"\)$'
    ):
        exec(compile(source, name, "exec"), names)


def test_a_function_that_finds_the_id_may_be_defined_anywhere() -> None:
    def session_id_of(sess: Any) -> Any:
        return sess.id

    @functools.wraps(session_id_of)
    def wrapped(sess: Any) -> Any:
        return sess.id

    def made() -> Callable[..., Any]:
        return lambda sess: sess.id

    finders: list[Any] = [session_id_of, wrapped, made(), lambda sess: sess.id]
    for attribute in ("id", "parent"):  # two functions with the same code

        def find(sess: Any, attribute: str = attribute) -> Any:
            return getattr(sess, attribute)

        finders.append(find)
    for number in range(len(finders)):

        @in_session(finders[number])
        def run_loop(sess: Any) -> str | None:
            return current_session_id()

        assert run_loop(SimpleNamespace(id="sess-1", parent="sess-1")) == "sess-1"


def test_a_function_may_have_annotations_that_can_not_be_evaluated() -> None:
    """Since Python 3.14, annotations are evaluated when code reads them."""
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


@pytest.mark.parametrize("fn", [function, generator, coroutine, async_generator])
def test_a_decorated_function_can_be_pickled_by_value(fn: Any) -> None:
    """Dask, Ray and joblib do so with local functions. A context variable can't be pickled."""
    found, names = [in_session("session_id")(fn)], set[str]()
    for wrapper in found:
        names |= set(wrapper.__code__.co_names)
        cells = [cell.cell_contents for cell in wrapper.__closure__ or ()]
        found += [cell for cell in cells if inspect.isfunction(cell) and cell not in found]
    assert "_current" not in names
    assert len(found) > 1
