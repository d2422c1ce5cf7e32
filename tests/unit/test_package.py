"""Tests of the package's public names, and of the modules that its import loads."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import cagent_session

PUBLIC_NAMES = """
session_scope in_session current_session_id new_session_id carry_session SessionExecutor
instrument uninstrument session_id_trace_config stamp_botocore
sub_session root_session_id generating_title compacting
SessionIdAdapter mount unmount session_factory session_id_hook async_session_id_hook
Gateway Route explain gateway_headers FORWARD_HEADER SESSION_ID_HEADER
InvalidSessionId InvalidGatewayURL MissingSessionId MissingSessionIdWarning
"""
NAMES = set(PUBLIC_NAMES.split())


def output_of(program: str) -> set[str]:
    """Return the words that *program* prints in a new interpreter."""
    command = [sys.executable, "-c", program]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def modules_after(statement: str) -> set[str]:
    """Return the modules that are loaded after *statement* in a new interpreter."""
    return output_of(f"{statement}\nimport sys; print(*sys.modules)")


def test_public_names() -> None:
    assert set(cagent_session.__all__) == NAMES
    assert all(getattr(cagent_session, name).__doc__ for name in NAMES)
    assert (cagent_session.FORWARD_HEADER, cagent_session.SESSION_ID_HEADER) == (
        "X-Cagent-Forward",
        "X-Cagent-Session-Id",
    )


def test_star_import_imports_every_public_name() -> None:
    namespace: dict[str, object] = {}
    exec("from cagent_session import *", namespace)
    assert set(namespace) >= NAMES


def test_dir_lists_all_names_even_before_they_are_loaded() -> None:
    assert output_of("import cagent_session; print(*dir(cagent_session))") >= NAMES
    assert set(dir(cagent_session)) >= NAMES | vars(cagent_session).keys()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'cagent_session' has no attribute 'moutn'"):
        _ = cagent_session.moutn  # type: ignore[attr-defined] # the mistake that is tested


def test_instrument_may_be_called_before_the_other_names_are_imported() -> None:
    program = """
from cagent_session import instrument
instrument("https://gateway.example")
from cagent_session import *
print(SessionIdAdapter.__name__, mount.__name__)
"""
    assert output_of(program) == {"SessionIdAdapter", "mount"}


def test_a_scope_alone_does_not_load_requests() -> None:
    loaded = modules_after(
        "from cagent_session import session_scope, in_session, carry_session, new_session_id"
    )
    assert not loaded & {"requests", "urllib3", "httpx", "pytest_httpserver", "werkzeug"}


def test_instrument_itself_loads_none_of_the_libraries() -> None:
    loaded = modules_after(
        "from cagent_session import instrument; instrument('https://gateway.example')"
    )
    assert not loaded & {"requests", "httpx", "httpx2", "aiohttp", "botocore"}


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
