"""Tests of the comparison: the verdicts on our solutions, the scenarios and the guide."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest
import table
from arrivals import listening
from scenarios import ROWS, Row
from solutions import KINDS, MALFORMED, NO_URL, OURS, TESTED, Instrument
from table import BEGIN, COLUMNS, END, GUIDE, LEAKED, LOST, NA, RIGHT, Results, verdict

NO_CLIENT = {"requests.post(), httpx.post()", "botocore, which boto3 uses", "urllib3's own pools"}
LOST_BY_INSTRUMENT = {"redirect away and back", "urllib3's own pools"}
LOST_BY_OURS = {*LOST_BY_INSTRUMENT, *NO_CLIENT, "SDK mounts its adapter later"}
ELSEWHERE = {"unmarked call to another host", "marked call to another host"}
LEAKED_WITHOUT_URL = {"marked call to another host", "wrapped, then a redirect away"}


@pytest.fixture(scope="module")
def results() -> Results:
    return table.compare(list(KINDS))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind in TESTED])
def test_ours_is_right_except_in_the_named_rows(name: str, row: Row, results: Results) -> None:
    lost = LOST_BY_INSTRUMENT if issubclass(KINDS[name], Instrument) else LOST_BY_OURS
    expected = LOST if row.name in lost else RIGHT
    if name in NO_URL and row.name in LEAKED_WITHOUT_URL:
        expected = LEAKED
    if not row.can_run_with(KINDS[name]):
        expected = NA
    outcomes = {scenario: results[name][scenario] for scenario in row.scenarios}
    assert {outcome.verdict for outcome in outcomes.values()} == {expected}, outcomes


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_scenario_notices_a_lost_and_a_wrong_id(row: Row, results: Results) -> None:
    """A call that does not use the client has none of the client's headers."""
    without = RIGHT if row.name in ELSEWHERE else LOST
    same = LOST if row.name in NO_CLIENT else LEAKED
    for scenario in row.scenarios:
        assert results["no header"][scenario].verdict == without
        assert results["same header"][scenario].verdict == same


def test_the_guide_shows_the_current_table(results: Results) -> None:
    """To renew the table, run ``nox -s comparison -- --write``."""
    assert GUIDE.read_text("utf-8").split(BEGIN)[1].split(END)[0] == table.table(results)


def reasons() -> list[tuple[list[str], list[Row], str]]:
    """Return each reason in the guide: its solutions, its rows and its text."""
    text = re.sub(r"\n  (?=\S)", " ", GUIDE.read_text("utf-8"))
    points = re.findall(r"(?m)^- Rows? ([\d, ]+) \(([^)]+)\): (.+)", text)
    return [
        (names.split(", "), [ROWS[int(number) - 1] for number in numbers.split(", ")], reason)
        for numbers, names, reason in points
    ]


def test_the_guide_has_one_reason_for_each_verdict_that_is_not_right(results: Results) -> None:
    """A solution without the gateway's URL needs reasons only where it is worse than with it."""
    given = [(name, row.name) for names, rows, _ in reasons() for name in names for row in rows]
    verdicts = {(name, row.name): verdict(results, name, row) for name in results for row in ROWS}
    needed = [key for key in verdicts if key[0] in COLUMNS and verdicts[key] != RIGHT]
    for name, kind in NO_URL.items():
        worse = [r.name for r in ROWS if verdicts[name, r.name] != verdicts[kind.name, r.name]]
        assert {verdicts[name, row] for row in worse} == {LEAKED}
        needed += [(name, row) for row in worse]
    assert sorted(given) == sorted(needed)


def test_the_guide_names_the_others_that_are_right_where_ours_is_not(results: Results) -> None:
    lost = []
    for names, rows, text in reasons():
        if {*names} <= {kind.name for kind in OURS} and rows[0].name in LOST_BY_OURS:
            right = [name for name in COLUMNS if verdict(results, name, rows[0]) == RIGHT]
            assert text.endswith(f" Right: {', '.join(right)}.")
            lost += rows
    assert {row.name for row in lost} == LOST_BY_OURS


@pytest.mark.parametrize(("name", "lost", "leaked"), [
    ("OpenTelemetry", ["empty", "10,000 characters"], []),
    ("session headers", ["empty"],
     ["a space at its end", "NUL", "DEL", "Latin-1", "10,000 characters"]),
    ("hook by hand", ["empty"], ["DEL", "10,000 characters"]),
])  # fmt: skip
def test_the_guide_names_the_malformed_ids_that_are_lost_or_leaked(
    name: str, lost: list[str], leaked: list[str], results: Results
) -> None:
    verdicts = {kind: results[name][f"malformed session ID: {kind}"].verdict for kind in MALFORMED}
    assert [kind for kind in MALFORMED if verdicts[kind] == LOST] == lost
    assert [kind for kind in MALFORMED if verdicts[kind] == LEAKED] == leaked


@pytest.mark.parametrize(("value", "problem"), [
    (b"sess-a", None), (b"sess\ta", None), (b"sess\0a", "bytes"), (b"sess\x7fa", "bytes"),
    (b"sess-\xe9", "bytes"), (b"sess\ra", "bytes"), (b"sess\na", "bytes"),
    (b"sess-a\r\nX-Injected: 1", "injected"), (b"sess-a\r\nno header", "illegal header line"),
    (b"s" * 8200, "too long"),
])  # fmt: skip
def test_the_servers_keep_and_check_all_bytes(value: bytes, problem: str | None) -> None:
    with listening() as (places, arrivals):
        host = places.gateway.removeprefix("http://")
        start = f"GET / HTTP/1.1\r\nHost: {host}\r\nX-Cagent-Session-Id: "
        head = start.encode() + value + b"\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(host.partition(":")[2])), 10) as client:
            client.sendall(head)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert [arrival.head for arrival in arrivals] == [head]
    assert str(problem) in str(arrivals[0].problem())


def test_a_scenario_whose_calls_do_not_all_arrive_has_no_verdict() -> None:
    message = "^our hook: two sessions and none: 0 of 5 calls arrived$"
    with listening() as (places, arrivals), pytest.raises(RuntimeError, match=message):
        table.judge("our hook", ROWS[0], arrivals, places)


def test_the_command_writes_the_table_into_the_guide(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = tmp_path / "README.rst"
    guide.write_text(f"before{BEGIN}old{END}after", "utf-8")
    monkeypatch.setattr(table, "GUIDE", guide)
    monkeypatch.setattr(table, "compare", lambda _: results)
    monkeypatch.setattr(sys, "argv", ["table.py", "--write"])
    table.main()
    assert guide.read_text("utf-8") == f"before{BEGIN}{table.table(results)}{END}after"
