"""The guide to testing is true: its tests find the forgotten session, as it says."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from sybil.document import Document
from sybil.parsers.rest import PythonCodeBlockParser

from cagent_session.testing.answers import ANSWERS

GUIDE = Path(__file__).parents[2] / "examples" / "testing" / "README.rst"
NO_SESSION = "1 call reached the models gateway in no session:"


def block_after(words: str) -> str:
    """Return the literal block that follows *words* in the guide."""
    (block,) = re.findall(rf"{words}::\n\n((?:    .+\n)+)", GUIDE.read_text("utf-8"))
    return textwrap.dedent(str(block))


@pytest.fixture
def user(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with the files of the guide. A file may come in several blocks."""
    for block in Document.parse(str(GUIDE), PythonCodeBlockParser()).examples():
        name = re.match(r"# (conftest|test_\w+)\.py\n", block.parsed)
        if name:
            with (pytester.path / f"{name[1]}.py").open("a", encoding="utf-8") as file:
                file.write(block.parsed)
    return pytester


def run(user: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return user.runpytest_inprocess("-p", "no:asyncio", *arguments)


def test_the_forgotten_session_fails_its_test_with_the_message_that_is_shown(
    user: pytest.Pytester,
) -> None:
    result = run(user, "test_agent.py")
    result.assert_outcomes(passed=2, failed=1)
    failure = ["*_ test_a_title _*", *block_after("Now it fails with").splitlines()]
    result.stdout.fnmatch_lines(failure, consecutive=True)


def test_the_configuration_requires_sessions(user: pytest.Pytester) -> None:
    configuration = block_after("here in\n``pyproject.toml``")
    user.path.joinpath("pyproject.toml").write_text(configuration, "utf-8")
    conftest = user.path / "conftest.py"
    without = conftest.read_text("utf-8").replace("    models_gateway.require_session()\n", "")
    conftest.write_text(without, "utf-8")
    run(user, "-k", "title").assert_outcomes(failed=1)


def test_the_bill_by_root_has_the_sub_sessions(user: pytest.Pytester) -> None:
    run(user, "test_sub_sessions.py").assert_outcomes(passed=1)
    module = user.path / "test_sub_sessions.py"
    module.write_text(module.read_text("utf-8").replace('by="root"', ""), "utf-8")
    run(user, "test_sub_sessions.py").assert_outcomes(failed=1)


def test_the_configuration_names_the_headers(user: pytest.Pytester) -> None:
    """The fixtures in the guide's conftest.py are for a gateway with docker-agent's headers."""
    user.path.joinpath("conftest.py").unlink()
    run(user, "test_headers.py").assert_outcomes(failed=1)
    configuration = block_after("``pyproject.toml``, here for OpenRouter")
    user.path.joinpath("pyproject.toml").write_text(configuration, "utf-8")
    run(user, "test_headers.py").assert_outcomes(passed=1)


def test_a_view_that_enters_no_session_fails_its_test(user: pytest.Pytester) -> None:
    result = run(user, "test_views.py")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*_ test_a_view_in_no_session _*"])


def test_the_shared_gateway_fails_at_its_end(user: pytest.Pytester) -> None:
    user.makepyfile("""
        from test_agent import generate_title

        def test_it(shared_gateway, monkeypatch):
            monkeypatch.setenv("DOCKER_AGENT_MODELS_GATEWAY", shared_gateway.url)
            generate_title("sess-abc1", "Plan my day")
    """)
    result = run(user, "-k", "test_it")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_it*", f"E *{NO_SESSION}"])


def test_the_table_has_the_path_of_every_answer() -> None:
    _, _, section = GUIDE.read_text("utf-8").partition("What the gateway answers\n")
    table, _, _ = section.partition("\n- ")
    assert set(re.findall("``([/:].+?)``", table)) == set(ANSWERS)


def test_a_recording_has_no_session_id(user: pytest.Pytester) -> None:
    hook = "def pytest_itemcollected(item):\n    item.add_marker('vcr')\n"
    with (user.path / "conftest.py").open("a", encoding="utf-8") as file:
        file.write(hook)
    tests = "an_answer or delegates"
    run(user, "-k", tests, "--record-mode=once").assert_outcomes(passed=2)
    for cassette in user.path.rglob("*.yaml"):
        recorded = cassette.read_text("utf-8")
        assert "Plan my day" in recorded
        assert not re.search("sess-abc1|X-Cagent-(Session-Id|Root-Session)", recorded)


def test_calls_to_other_hosts_can_be_refused(user: pytest.Pytester) -> None:
    """The address belongs to a network for documentation."""
    user.makepyfile("""
        import socket

        def test_elsewhere():
            with socket.socket() as connection:
                connection.connect(("192.0.2.1", 80))
    """)
    blocked = ("--block-network", "--allowed-hosts=127.0.0.1", "-k", "an_answer or elsewhere")
    result = run(user, *blocked)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E *Network is disabled*"])
