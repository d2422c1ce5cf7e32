"""The activities that the tests of Temporal run."""

from __future__ import annotations

import asyncio

import jobs
from temporalio import activity

from cagent_session import in_session


@activity.defn
def ask_without_the_decorator(gateway: str, question: str) -> str | None:
    return jobs.ask(gateway, question)


@activity.defn
@in_session("session_id")
def ask(gateway: str, question: str, session_id: str | None) -> str | None:
    return jobs.ask(gateway, question)


@activity.defn
@in_session("session_id")
async def ask_asynchronously(gateway: str, question: str, session_id: str | None) -> str | None:
    return await asyncio.to_thread(jobs.ask, gateway, question)


@activity.defn
@in_session(lambda *_: activity.info().workflow_id)
def ask_in_the_session_of_the_workflow(gateway: str, question: str) -> str | None:
    return jobs.ask(gateway, question)
