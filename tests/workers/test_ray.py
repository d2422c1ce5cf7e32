"""Tests of Ray: tasks, actors and pools call the gateway in the session of their job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from engines import Calls, Carries, Job, map_each, start_each
from jobs import ask
from ray.util.multiprocessing import Pool

from cagent_session import carry_session, current_session_id, in_session, session_scope
from cagent_session.testing import ModelsGateway


@pytest.fixture(scope="module")
def call(started_ray: None) -> Any:
    """Return a remote function that runs any job."""

    def call(job: Job, *args: Any, **kwargs: Any) -> Any:
        return job(*args, **kwargs)

    return ray.remote(call)


class TestRay(Carries):
    main_way = "by_task"

    @pytest.fixture
    def engine(self, call: Any) -> Any:
        return call

    def by_task(self, call: Any, job: Job, calls: Calls) -> list[Any]:
        results: list[Any] = ray.get(
            start_each(calls, lambda *args: call.remote(carry_session(job), *args))
        )
        return results

    def by_task_that_submits(self, call: Any, job: Job, calls: Calls) -> list[Any]:
        def start(*columns: tuple[Any, ...]) -> list[Any]:
            carried = ray.put(carry_session(job))
            results: list[Any] = ray.get(
                [call.remote(carried, *args) for args in zip(*columns, strict=True)]
            )
            return results

        refs = map_each(calls, lambda *columns: [call.remote(carry_session(start), *columns)])
        return [result for results in ray.get(refs) for result in results]

    def by_actor(self, call: Any, job: Job, calls: Calls) -> list[Any]:
        class Agent:
            def run(self, job: Job, *args: Any) -> Any:
                return job(*args)

        agent = ray.remote(Agent).options(max_concurrency=4).remote()
        results: list[Any] = ray.get(
            start_each(calls, lambda *args: agent.run.remote(carry_session(job), *args))
        )
        return results

    def by_pool(self, call: Any, job: Job, calls: Calls) -> list[Any]:
        pool = Pool(2)
        try:
            return map_each(
                calls, lambda *columns: pool.starmap(carry_session(job), zip(*columns, strict=True))
            )
        finally:
            pool.terminate()
            pool.join()

    def uncarried(self, call: Any, job: Job, calls: Calls) -> list[Any]:
        results: list[Any] = ray.get(start_each(calls, lambda *args: call.remote(job, *args)))
        return results

    def raised_in_job(self, error: BaseException) -> BaseException:
        """Return the wrapper's cause. The wrapper has both Ray's class and the error's class."""
        return getattr(error, "cause", error)


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
def test_an_actors_decorated_methods_run_in_their_session(
    kind: str, call: Any, gateway: ModelsGateway
) -> None:
    class Agent:
        @in_session("session_id")
        def work(self, session_id: str, url: str) -> str | None:
            return ask(url, f"{session_id} asks")

        def rest(self) -> str | None:
            return current_session_id()

    class AsyncAgent:
        @in_session("session_id")
        async def work(self, session_id: str, url: str) -> str | None:
            return await asyncio.to_thread(ask, url, f"{session_id} asks")

        async def rest(self) -> str | None:
            return current_session_id()

    agent = ray.remote({"plain": Agent, "asynchronous": AsyncAgent}[kind]).remote()
    session_ids = [f"sess-{number}" for number in range(20)]
    work = [agent.work.remote(session_id, gateway.url) for session_id in session_ids]
    assert ray.get([*work, agent.rest.remote()]) == [*session_ids, None]
    asked = [(call.session_id, call.json["messages"][0]["content"]) for call in gateway.calls]
    assert sorted(asked) == sorted((session_id, f"{session_id} asks") for session_id in session_ids)


def test_a_carried_function_can_not_be_made_a_remote_function() -> None:
    """For this reason, the guide's remote function takes any job as an argument."""
    with pytest.raises(TypeError, match="either a function or a class"):
        ray.remote(carry_session(ask))


def test_a_decorated_function_runs_in_its_session(call: Any) -> None:
    @in_session("session_id")
    def work(session_id: str) -> str | None:
        return current_session_id()

    assert ray.get(ray.remote(work).remote("sess-1")) == "sess-1"


def test_a_decorated_generator_streams_from_its_session(call: Any) -> None:
    @in_session("session_id")
    def run_loop(session_id: str) -> Iterator[str | None]:
        yield current_session_id()
        yield current_session_id()

    events = ray.remote(run_loop).remote("sess-1")
    assert [ray.get(event) for event in events] == ["sess-1", "sess-1"]


def test_a_task_that_is_tried_again_stays_in_its_session(
    call: Any, gateway: ModelsGateway, tmp_path: Path
) -> None:
    def fail_twice(url: str, attempts: Path) -> str | None:
        with attempts.open("a") as file:
            file.write("x")
        ask(url, "Will it work?")
        if attempts.read_text() != "xxx":
            raise OSError("not yet")
        return current_session_id()

    with session_scope("sess-1"):
        insistent = call.options(max_retries=2, retry_exceptions=True)
        ref = insistent.remote(carry_session(fail_twice), gateway.url, tmp_path / "attempts")
    assert ray.get(ref) == "sess-1"
    assert [call.session_id for call in gateway.calls] == ["sess-1"] * 3


def test_a_reference_passed_to_a_carried_job_arrives_as_its_object(call: Any) -> None:
    def repeat(*seen: str | None) -> tuple[str | None, ...]:
        return (*seen, current_session_id())

    with session_scope("sess-1"):
        first = call.remote(carry_session(repeat))
    with session_scope("sess-2"):
        assert ray.get(call.remote(carry_session(repeat), first)) == (("sess-1",), "sess-2")
