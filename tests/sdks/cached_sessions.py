"""Tests for SDKs that are derived from openai 0.28. Such an SDK keeps a session per thread."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from contract import HEADERS, AsyncNeedsMore

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway


class CachesSessions(AsyncNeedsMore):
    """An SDK that gets a function which makes sessions, and calls it once for each thread."""

    sdk: Any  # the package
    api_requestor: Any  # the SDK's module that makes and keeps sessions
    arguments_of_make_session: tuple[Any, ...] = ()

    @pytest.fixture(autouse=True)
    def no_cached_session(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self.sdk, "requestssession", None)
        vars(self.api_requestor._thread_context).clear()

    def test_the_sdks_own_connection_retries_are_kept(self) -> None:
        own_retries = self.retries_of_a_new_session()
        self.client("https://gateway.example", {})
        assert self.retries_of_a_new_session() == own_retries == 2

    def test_lines_after_the_first_call_have_no_effect(self, gateway: ModelsGateway) -> None:
        """Own line: set it before the first call."""
        client = self.client(gateway.url, HEADERS)
        factory = self.sdk.requestssession
        for self.sdk.requestssession in (None, factory):
            # The gateway refuses a call that is unmarked.
            with session_scope("sess-1"), contextlib.suppress(Exception):
                self.example.ask(client, "model", "Hello")
        assert {(call.forward, call.session_id) for call in gateway.calls} == {(None, None)}

    def retries_of_a_new_session(self) -> Any:
        session = self.api_requestor._make_session(*self.arguments_of_make_session)
        return session.get_adapter("https://gateway.example").max_retries.total
