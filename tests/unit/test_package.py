"""What does the package offer, and what does importing it load?"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import cagent_session

PUBLIC_NAMES = {
    *(
        "session_scope",
        "in_session",
        "current_session_id",
        "new_session_id",
        "carry_session",
        "SessionExecutor",
    ),
    *(
        "SessionIdAdapter",
        "mount",
        "unmount",
        "session_factory",
        "session_id_hook",
        "async_session_id_hook",
    ),
    *("Gateway", "explain", "gateway_headers", "FORWARD_HEADER", "SESSION_ID_HEADER"),
    *("InvalidSessionId", "InvalidGatewayURL", "MissingSessionId", "MissingSessionIdWarning"),
}


def modules_after(statement: str) -> set[str]:
    """Return what is loaded after *statement* in a fresh interpreter."""
    program = f"{statement}\nimport sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return set(loaded.stdout.split())


def test_public_names() -> None:
    assert set(cagent_session.__all__) == PUBLIC_NAMES
    assert all(getattr(cagent_session, name).__doc__ for name in PUBLIC_NAMES)
    assert (cagent_session.FORWARD_HEADER, cagent_session.SESSION_ID_HEADER) == (
        "X-Cagent-Forward",
        "X-Cagent-Session-Id",
    )


def test_star_import_brings_every_public_name() -> None:
    namespace: dict[str, object] = {}
    exec("from cagent_session import *", namespace)
    assert set(namespace) >= PUBLIC_NAMES


def test_names_that_are_not_loaded_yet_are_listed() -> None:
    program = "import cagent_session; print(*dir(cagent_session))"
    listed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert set(listed.stdout.split()) >= PUBLIC_NAMES
    assert set(dir(cagent_session)) >= PUBLIC_NAMES


def test_what_any_module_has_is_listed_too() -> None:
    assert set(dir(cagent_session)) >= vars(cagent_session).keys()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'cagent_session' has no attribute 'moutn'"):
        _ = cagent_session.moutn  # type: ignore[attr-defined] # the mistake that is tested


def test_a_scope_alone_does_not_load_requests() -> None:
    loaded = modules_after(
        "from cagent_session import session_scope, in_session, carry_session, new_session_id"
    )
    assert not loaded & {"requests", "urllib3", "httpx", "pytest_httpserver", "werkzeug"}


def test_the_whole_library_loads_no_package_beyond_requests() -> None:
    beyond = modules_after("from cagent_session import *") - modules_after("import requests")
    assert {name.partition(".")[0] for name in beyond} - sys.stdlib_module_names == {
        "cagent_session"
    }


def test_requests_is_the_only_runtime_dependency() -> None:
    required = [
        line for line in metadata.requires("cagent-session") or [] if "extra ==" not in line
    ]
    assert [line.partition(">=")[0] for line in required] == ["requests"]
