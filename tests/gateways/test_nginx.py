"""Tests of a change to nginx's recipe that its README suggests."""

from __future__ import annotations

import programs
import pytest
from calling import CALLS_AT_ONCE, Start, agent_headers, answer_to

from cagent_session import SESSION_ID_HEADER, new_session_id


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key", "X-Goog-Api-Key"])
def test_if_the_limit_is_by_api_key_an_attacker_can_not_use_up_a_session(
    header: str, start: Start
) -> None:
    readme = (programs.HERE / "nginx" / "README.rst").read_text(encoding="utf-8")
    by_key = 'default "$session $http_authorization $http_x_api_key $http_x_goog_api_key";'
    assert f"``{by_key}``" in readme
    gateway, session_id = start("nginx", {"default  $session;": by_key}), new_session_id()

    def status_with(key: str) -> int:
        headers = {**agent_headers(gateway), SESSION_ID_HEADER: session_id, header: key}
        return answer_to(gateway, headers.items())[0]

    assert {status_with("sk-attacker") for _ in range(3 * CALLS_AT_ONCE)} == {200, 429}
    assert [status_with("sk-owner") for _ in range(CALLS_AT_ONCE)] == [200] * CALLS_AT_ONCE
    assert {line["session"] for line in gateway.audit(4 * CALLS_AT_ONCE)} == {session_id}
