"""Is ours right in every scenario but those that say why not? And would the judge tell, if it weren't?"""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import reasons
import table
from arrivals import Arrival, Places, listening, url_at
from reasons import REASONS, rows
from scenarios import MALFORMED, SCENARIOS
from solutions import (
    CONTROLS,
    OURS,
    PEERS,
    UNTOLD,
    Adapter,
    Blunt,
    Hooks,
    Mute,
    OpenTelemetry,
    Sentry,
    SessionHeaders,
)
from verdicts import (
    BROKEN,
    LEAKED,
    LOST,
    NOT_APPLICABLE,
    RIGHT,
    Outcome,
    Outcomes,
    judge,
    run_all,
    worst,
)

README = Path(__file__).parents[2] / "README.rst"
HEADING = "How it compares"

BOTH = {reasons.BACK: LOST, reasons.POST: LOST, reasons.URLLIB3: LOST}
ON_REQUESTS = [
    "retries",
    reasons.COPIES,
    reasons.LONGER,
    reasons.WRAPPED,
    reasons.AROUND,
    reasons.AFTERWARDS,
]
EXCEPTIONS: dict[str, dict[str, str]] = {  # for the reasons, which the table prints, see reasons.py
    "adapter": {**BOTH, reasons.AFTERWARDS: LOST},
    "hooks": {**BOTH, **dict.fromkeys(ON_REQUESTS, NOT_APPLICABLE)},
    "adapter, no URL": {
        **BOTH,
        reasons.AFTERWARDS: LOST,
        reasons.MARKED: LEAKED,
        reasons.AROUND: LEAKED,
    },
    "hooks, no URL": {**BOTH, **dict.fromkeys(ON_REQUESTS, NOT_APPLICABLE), reasons.MARKED: LEAKED},
}
OURS_IN_ALL = [*OURS, *(solution for solution in UNTOLD if issubclass(solution, Adapter))]

PLACES = Places(
    "http://127.0.0.1:1", "https://127.0.0.1:2", "http://127.0.0.1:3", "https://127.0.0.1:4", ""
)
IN_TURN = SCENARIOS[rows()[0]]
REDIRECTED = SCENARIOS["redirect to another host or port: 307 to another port"]


@pytest.fixture(scope="module")
def ours() -> dict[str, Outcomes]:
    return run_all(OURS_IN_ALL)


@pytest.fixture(scope="module")
def controls() -> dict[str, Outcomes]:
    return run_all(CONTROLS)


@pytest.fixture(scope="module")
def results(ours: dict[str, Outcomes]) -> dict[str, Outcomes]:
    """Return what the table is made of."""
    return {
        **ours,
        **run_all([*PEERS, *(solution for solution in UNTOLD if solution not in OURS_IN_ALL)]),
    }


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("solution", EXCEPTIONS)
def test_ours_tells_whose_each_call_is(
    solution: str, scenario: str, ours: dict[str, Outcomes]
) -> None:
    outcome = ours[solution][scenario]
    assert outcome.verdict == EXCEPTIONS[solution].get(SCENARIOS[scenario].row, RIGHT), outcome.seen


def test_what_is_not_right_has_a_reason_and_no_reason_is_left_over(
    results: dict[str, Outcomes],
) -> None:
    not_right = {
        name: {
            SCENARIOS[scenario].row
            for scenario, outcome in outcomes.items()
            if outcome.verdict in (LEAKED, LOST)
        }
        for name, outcomes in results.items()
    }
    assert {name: set(by_row) for name, by_row in REASONS.items()} == not_right


def test_the_readme_has_the_table(results: dict[str, Outcomes]) -> None:
    """Paste what ``table.py --rst`` prints."""
    section = re.search(
        rf"(?ms)^{HEADING}\n=+\n(.+?)(?=^[^\n]+\n=+\n\n|\Z)", README.read_text("utf-8")
    )
    assert section is not None, f"README.rst has no section {HEADING!r}"
    assert table.as_rst(results) in section[1]


def test_a_header_on_the_session_leaks_over_a_redirect(results: dict[str, Outcomes]) -> None:
    assert results[SessionHeaders.name][REDIRECTED.name].verdict == LEAKED


def test_a_header_on_the_session_is_lost_by_a_thread_that_outlives_the_scope(
    results: dict[str, Outcomes],
) -> None:
    assert results[SessionHeaders.name]["thread that outlives the scope"].verdict == LOST


def test_malformed_bytes_on_the_wire_are_told(results: dict[str, Outcomes]) -> None:
    verdicts = {
        name: results[SessionHeaders.name][f"malformed ID: {name}"].verdict for name in MALFORMED
    }
    assert [name for name, verdict in verdicts.items() if verdict == LEAKED] == [
        "a space at its end",
        "NUL",
        "DEL",
        "Latin-1",
        "10,000 characters",
    ]


@pytest.mark.parametrize("peer", [OpenTelemetry, Sentry])
def test_where_a_peer_that_patches_globally_does_better_it_is_said(
    peer: type[Any], results: dict[str, Outcomes]
) -> None:
    assert results[peer.name][reasons.POST].verdict == RIGHT
    line = next(
        line
        for line in table.peers_do_better(results)
        if line.startswith(f"{reasons.numbers([reasons.POST])}:")
    )
    assert peer.name in line


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_tells_a_solution_that_tells_nobody_or_everybody(
    scenario: str, controls: dict[str, Outcomes]
) -> None:
    """One that finds both right proves nothing. What goes past a client goes past its header, too."""
    row = SCENARIOS[scenario].row
    assert controls[Mute.name][scenario].verdict == (RIGHT if row in reasons.ELSEWHERE else LOST)
    assert controls[Blunt.name][scenario].verdict == (
        LOST if row in (reasons.POST, reasons.URLLIB3) else LEAKED
    )


def arrival(owner: str | None, session_id: bytes | None, place: str = PLACES.gateway) -> Arrival:
    """Return a call of *owner*'s session, as it arrives with *session_id*."""
    scheme, host = place.split("://")
    target = url_at("", IN_TURN.name, owner)
    stamp = b"" if session_id is None else b"X-Cagent-Session-Id: " + session_id + b"\r\n"
    return Arrival(scheme, f"POST {target} HTTP/1.1\r\nHost: {host}\r\n".encode() + stamp + b"\r\n")


@pytest.mark.parametrize(
    ("verdict", "redirected", "then"),
    [
        (RIGHT, arrival("sess-a", b"sess-a"), arrival(None, None, PLACES.other)),
        (RIGHT, arrival("sess-a", b"sess-a"), arrival(None, None)),
        (LOST, arrival("sess-a", None), arrival(None, None, PLACES.other)),
        (LOST, arrival("sess-a", b""), arrival(None, None, PLACES.other)),
        (LEAKED, arrival("sess-a", b"sess-a"), arrival(None, b"sess-a")),
        (LEAKED, arrival("sess-a", b"sess-b"), arrival(None, None)),
        (LEAKED, arrival("sess-a", b"sess-a"), arrival("sess-a", b"sess-a", PLACES.other)),
        (LEAKED, arrival("sess-a", b"sess-a"), arrival("sess-a", b"sess-a", PLACES.other_tls)),
        (LEAKED, arrival("sess-a", b"sess-a"), arrival("sess-a", b"sess-a", PLACES.localhost)),
        (
            LEAKED,
            arrival("sess-a", None),
            arrival(None, b"sess-a", PLACES.other),
        ),  # leaked is worse than lost
        (LEAKED, arrival("sess-a", b"sess-a\x7f"), arrival(None, None)),
    ],
)
def test_the_verdict_on_what_arrived(verdict: str, redirected: Arrival, then: Arrival) -> None:
    assert judge(REDIRECTED, Adapter, [redirected, then], {}, PLACES).verdict == verdict


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_there_is_no_verdict_where_more_or_less_arrived(calls: int) -> None:
    assert (
        judge(REDIRECTED, Adapter, [arrival("sess-a", b"sess-a")] * calls, {}, PLACES).verdict
        == BROKEN
    )


def test_there_is_no_verdict_where_the_scenario_failed() -> None:
    outcome = judge(
        REDIRECTED, Adapter, [arrival("sess-a", b"sess-a")] * 2, {"broke": "Traceback"}, PLACES
    )
    assert outcome == Outcome(BROKEN, ("2 arrived", "Traceback"))


def test_a_malformed_id_may_be_refused_but_not_vanish() -> None:
    scenario = SCENARIOS["malformed ID: NUL"]
    assert judge(scenario, Adapter, [], {"refused": "InvalidSessionId"}, PLACES).verdict == RIGHT
    assert judge(scenario, Adapter, [], {}, PLACES).verdict == BROKEN


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"sess-a", None),
        (b"sess\ta", None),
        (b"sess\0a", "bytes"),
        (b"sess\x7fa", "bytes"),
        (b"sess-\xe9", "bytes"),
        (b"sess\ra", "bytes"),
        (b"sess\na", "bytes"),
        (b"sess-a\r\nX-Injected: 1", "injected"),
        (b"sess-a\r\nno header", "illegal header line"),
        (b"s" * 8200, "too long"),
    ],
)
def test_the_bytes_are_written_down_as_they_came_and_read_strictly(
    value: bytes, problem: str | None
) -> None:
    with listening() as wire:
        sent = arrival("sess-a", value, wire.places.gateway).head
        with socket.create_connection(
            ("127.0.0.1", int(wire.places.gateway.rpartition(":")[2])), 10
        ) as client:
            client.sendall(sent + b"{}")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert [arrived.head for arrived in wire.of(IN_TURN.name)] == [sent]
    found = wire.arrivals[0].malformed
    assert found is None if problem is None else problem in (found or "")


def test_a_row_is_as_bad_as_the_worst_of_its_scenarios() -> None:
    outcomes = [Outcome(verdict) for verdict in (NOT_APPLICABLE, RIGHT, LOST, LEAKED, BROKEN)]
    assert [worst(outcomes[:count]) for count in range(1, 6)] == [
        outcome.verdict for outcome in outcomes
    ]


def test_the_command_prints_the_table_and_writes_the_verdicts(
    results: dict[str, Outcomes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        table, "run_all", lambda solutions: {each.name: results[each.name] for each in solutions}
    )
    table.main(["--json", str(tmp_path / "verdicts.json")])
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "verdicts.json").read_text("utf-8"))
    for name, scenario in SCENARIOS.items():
        line = next(line for line in printed.splitlines() if f" {name} " in line)
        assert line.split()[-1] == written["outcomes"]["hook by hand"][name]["verdict"], scenario
    assert written["outcomes"][Hooks.name].keys() == SCENARIOS.keys()
    assert written["versions"] in " ".join(printed.split())


def test_the_command_fails_where_a_scenario_is_broken(
    results: dict[str, Outcomes], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {**results[Hooks.name], IN_TURN.name: Outcome(BROKEN, ("0 arrived", "Traceback"))}
    monkeypatch.setattr(table, "run_all", lambda _: {**results, Hooks.name: broken})
    with pytest.raises(SystemExit, match=f"^hooks: {IN_TURN.name}: 0 arrived: Traceback$"):
        table.main([])
