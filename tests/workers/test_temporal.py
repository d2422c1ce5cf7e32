"""Tests of Temporal: activities run in their session, and workflows keep to the sandbox's rules.

Temporal's server is not on PyPI. The activities run in its ActivityEnvironment. The workflow runs
in its Replayer, which needs no server, either.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gc
import importlib
import inspect
import json
import random
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from temporal_app import (
    ask,
    ask_asynchronously,
    ask_in_the_session_of_the_workflow,
    ask_without_the_decorator,
)
from temporalio.client import WorkflowHistory
from temporalio.testing import ActivityEnvironment
from temporalio.worker import Replayer
from test_guide_lines import LINES

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway

WORKFLOW = f"""
from datetime import timedelta
from temporalio import workflow
with workflow.unsafe.imports_passed_through():
    from cagent_session import current_session_id, new_session_id
    from temporal_app import ask

@workflow.defn
class AskAll:
    @workflow.run
    async def run(self, session_id: str, questions: list[str]) -> list[str]:
        assert current_session_id() is None
        opts = {{"start_to_close_timeout": timedelta(minutes=1)}}
        execute_activity = workflow.execute_activity
        {LINES["Temporal"]}
        return answers
"""


@pytest.fixture
def run_in_starter() -> Iterator[None]:
    """Run a test as if the worker was started in a session."""
    with session_scope("starter"):
        yield


@pytest.mark.parametrize("job", [ask, ask_asynchronously])
def test_activities_of_many_sessions_run_in_their_sessions(
    run_in_starter: None, job: Any, gateway: ModelsGateway
) -> None:
    sessions = [*(f"sess-{number}" for number in range(20)), None] * 10
    random.Random(0).shuffle(sessions)

    async def run_all() -> list[Any]:
        return await asyncio.gather(
            *(
                run_activity(job, gateway.url, str(session_id), session_id)
                for session_id in sessions
            )
        )

    assert asyncio.run(run_all()) == sessions
    asked = [(call.session_id, call.json["messages"][0]["content"]) for call in gateway.calls]
    assert Counter(asked) == Counter((session_id, str(session_id)) for session_id in sessions)


async def run_activity(job: Any, *args: Any, **info: Any) -> Any:
    """Run an activity as a worker does: in a thread that has a copy of the context, if need be."""
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, **info)
    if inspect.iscoroutinefunction(job):
        return await environment.run(job, *args)
    return await asyncio.to_thread(environment.run, job, *args)


def test_every_attempt_of_an_activity_is_in_its_session(
    run_in_starter: None, gateway: ModelsGateway
) -> None:
    for attempt in (1, 2, 3):
        asyncio.run(run_activity(ask, gateway.url, "?", "sess-1", attempt=attempt))
    assert [call.session_id for call in gateway.calls] == ["sess-1"] * 3


def test_without_the_decorator_an_activity_is_in_the_session_that_started_the_worker(
    run_in_starter: None, gateway: ModelsGateway
) -> None:
    assert asyncio.run(run_activity(ask_without_the_decorator, gateway.url, "?")) == "starter"


def test_the_workflows_id_can_name_the_session(
    run_in_starter: None, gateway: ModelsGateway
) -> None:
    arguments = (ask_in_the_session_of_the_workflow, gateway.url, "?")
    assert asyncio.run(run_activity(*arguments, workflow_id="sess-1")) == "sess-1"


def replay(workflow: str, folder: Path, monkeypatch: pytest.MonkeyPatch, runs: int = 1) -> None:
    """Run a workflow in the sandbox, until it has started its activity. One worker makes *runs*."""
    (folder / "ask_all.py").write_text(workflow, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "ask_all", raising=False)
    replayer = Replayer(workflows=[importlib.import_module("ask_all").AskAll])

    async def histories() -> AsyncIterator[WorkflowHistory]:
        for _ in range(runs):
            yield history("sess-1", ["?"])

    asyncio.run(replayer.replay_workflows(histories()))


def history(*arguments: Any) -> WorkflowHistory:
    """Return the history of a workflow that was started with *arguments* and started ``ask``."""
    payloads = [
        {"metadata": {"encoding": as_base64("json/plain")}, "data": as_base64(json.dumps(argument))}
        for argument in arguments
    ]
    started = {
        "workflowType": {"name": "AskAll"},
        "taskQueue": {"name": "agent"},
        "originalExecutionRunId": "run-1",
        "input": {"payloads": payloads},
    }
    happened: dict[str, Any] = {
        "workflowExecutionStarted": started,
        "workflowTaskScheduled": {},
        "workflowTaskStarted": {"scheduledEventId": 2},
        "workflowTaskCompleted": {"scheduledEventId": 2, "startedEventId": 3},
        "activityTaskScheduled": {"activityId": "1", "activityType": {"name": "ask"}},
    }
    events = [
        {
            "eventId": number,
            "eventTime": "2026-01-01T00:00:00Z",
            "eventType": "EVENT_TYPE_" + re.sub("(?=[A-Z])", "_", name).upper(),
            f"{name}EventAttributes": attributes,
        }
        for number, (name, attributes) in enumerate(happened.items(), 1)
    ]
    return WorkflowHistory.from_json("workflow-1", {"events": events})


def as_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_workflow_runs_in_no_session_and_passes_the_id_on(
    run_in_starter: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay(WORKFLOW, tmp_path, monkeypatch)


def test_a_workflow_may_not_make_a_session_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = WORKFLOW.replace("q, session_id]", "q, new_session_id()]")
    with pytest.raises(RuntimeError, match=r"Cannot access uuid\.uuid4"):
        replay(workflow, tmp_path, monkeypatch)
    replay(workflow.replace("new_session_id()", "str(workflow.uuid4())"), tmp_path, monkeypatch)


@pytest.mark.parametrize("passed_through", [True, False])
def test_each_run_of_a_workflow_keeps_a_copy_of_the_package_unless_it_is_passed_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passed_through: bool
) -> None:
    """The worker itself keeps another copy. It runs the module once to check the workflow."""
    workflow = WORKFLOW
    if not passed_through:
        line = "    from cagent_session import current_session_id, new_session_id\n"
        workflow = line.strip() + WORKFLOW.replace(line, "")
    kept = []
    for runs in (1, 3):
        before = copies_of_the_package()
        replay(workflow, tmp_path, monkeypatch, runs)
        kept.append(copies_of_the_package() - before)
    assert (kept == [0, 0]) is passed_through
    assert (kept[0] < kept[1]) is not passed_through


def copies_of_the_package() -> int:
    gc.collect()
    return sum(
        isinstance(found, FunctionType) and found.__qualname__ == "current_session_id"
        for found in gc.get_objects()
    )
