"""What more must hold for SDKs that descend from openai 0.28? Each keeps a session per thread, made by a factory."""

from __future__ import annotations

from typing import Any

import pytest
from contract import Attributed


class CachesSessions(Attributed):
    """Its package is ``sdk``; ``api_requestor`` is the module of it that makes and keeps the sessions."""

    sdk: Any
    api_requestor: Any
    arguments_of_make_session: tuple[Any, ...] = ()

    @pytest.fixture(autouse=True)
    def no_cached_session(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin without a factory, and without a session that an earlier test's has made."""
        monkeypatch.setattr(self.sdk, "requestssession", None)
        vars(self.api_requestor._thread_context).clear()

    def test_the_sdks_own_connection_retries_are_kept(self) -> None:
        theirs = self.retries_of_a_new_session()
        self.client("https://gateway.example", {})
        assert self.retries_of_a_new_session() == theirs == 2

    def retries_of_a_new_session(self) -> Any:
        session = self.api_requestor._make_session(*self.arguments_of_make_session)
        return session.get_adapter("https://gateway.example").max_retries.total
