"""Tests of examples/gateways/bill.py: its sums, its errors, its report in Chromium, its speed."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterable
from contextlib import redirect_stdout
from html import unescape
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import bill
import bill_benchmark
import programs
import pytest
from calling import (
    CHAT,
    COUNT_TOKENS,
    TIMEOUT,
    agent,
    fingerprint_of,
    price_of,
    question,
    statuses,
)
from programs import CLIENT_KEY, OTHER_KEYS, Gateway
from spending import SUMS, Bill, BillError, read_prices

from cagent_session import new_session_id, session_scope, sub_session

BILL = Path(bill.__file__)
SCRIPT = "<script>document.title='run'</script><img src=http://127.0.0.1:1/x onerror=alert(1)>"
PRICES = {"gpt-4o-mini": {"prompt": 1.0, "cached": 0.5, "cache_write": 2.0, "completion": 4.0}}


def call(session: str, minute: int = 0, **values: Any) -> dict[str, Any]:
    return {
        "time": f"2026-11-23T02:{minute:02}:00+00:00",
        "session": session,
        "root": session,
        "key": "9af15b336e6a9619",
        "client": "127.0.0.1",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "duration_ms": 9,
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "cached_tokens": 4,
        "cache_write_tokens": 1,
        **values,
    }


def written(file: Path, lines: Iterable[dict[str, Any] | str]) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return file


def run(*arguments: object, status: int = 0, **variables: str) -> tuple[str, str]:
    """Return what bill.py prints to stdout and to stderr."""
    command = [sys.executable, str(BILL), *map(str, arguments)]
    environ = {**os.environ, **variables}
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environ, timeout=120
    )
    assert result.returncode == status, result.stderr
    return result.stdout, result.stderr


def started(
    *arguments: object, stderr: int, environ: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(BILL), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environ)


def rows(*arguments: object) -> dict[tuple[str, str, str], dict[str, str]]:
    """Return what bill.py prints with --csv. It runs in this process, because that is faster."""
    argv = ["bill.py", *map(str, arguments), "--csv"]
    with patch.object(sys, "argv", argv), redirect_stdout(StringIO()) as output:
        bill.show(bill.arguments())
    return {
        (row["key"], row["root"], row["session"]): row
        for row in csv.DictReader(output.getvalue().splitlines())
    }


def error(*arguments: object, **variables: str) -> str:
    output, errors = run(*arguments, status=1, **variables)
    assert output == ""
    (line,) = errors.splitlines()
    return line


def long_audit(file: Path, calls: int) -> Path:
    """Write calls of 10,000 sessions. Two million take a second to read, in a small file."""
    lines = "".join(f"{json.dumps(call(f'session-{n}'))}\n" for n in range(10_000))
    file.write_bytes(gzip.compress(lines.encode()) * (calls // 10_000))
    return file


def priced(file: Path, prices: object = PRICES) -> Path:
    file.write_text(json.dumps(prices), "utf-8")
    return file


def test_each_session_has_its_sums(tmp_path: Path) -> None:
    audit = written(
        tmp_path / "audit.log",
        [call("session-1"), call("session-1", 5, status=429, prompt_tokens=0), call("session-2")],
    )
    spent = rows(audit)
    first = spent["9af15b336e6a9619", "session-1", "session-1"]
    sums = "calls", "errors", "prompt", "cached", "cache_write", "completion"
    assert [first[name] for name in sums] == ["2", "1", "10", "8", "2", "4"]
    assert (first["first"], first["last"]) == ("2026-11-23T02:00:00Z", "2026-11-23T02:05:00Z")
    assert len(spent) == 2


def test_a_call_without_an_answer_is_an_error(tmp_path: Path) -> None:
    """The status is then 0 in Envoy's audit, and may be -1 in HAProxy's."""
    lines = [call(str(status), status=status) for status in (-1, 0, 200, 302, 400, 499, 503)]
    assert {
        session: row["errors"]
        for (_, _, session), row in rows(written(tmp_path / "audit.log", lines)).items()
    } == {"-1": "1", "0": "1", "200": "0", "302": "0", "400": "1", "499": "1", "503": "1"}


def test_the_same_id_with_another_key_is_another_session(tmp_path: Path) -> None:
    lines = [call("session-1"), call("session-1", key="b" * 16), call("session-1", key="b" * 16)]
    spent = rows(written(tmp_path / "audit.log", lines))
    assert {key: row["calls"] for (key, _, _), row in spent.items()} == {
        "9af15b336e6a9619": "1",
        "b" * 16: "2",
    }


def test_a_root_has_the_sum_of_its_sub_sessions(tmp_path: Path) -> None:
    lines = [
        call("the-root"),
        *(call(f"sub-{n}", root="the-root") for n in range(5)),
        call("alone"),
    ]
    output, _ = run(written(tmp_path / "audit.log", lines), "--top", 3)
    table = [line.split() for line in output.partition("\n\n")[0].splitlines()[2:]]
    assert [(row[0], row[2]) for row in table if "..." not in row] == [
        ("the-root", "6"),
        ("the-root", "1"),
        ("sub-0", "1"),
        ("sub-1", "1"),
        ("alone", "1"),
    ]
    assert "  ... and 3 more" in output
    assert "The root sessions that spent most, 2 of 2:" in output


def test_calls_in_no_session_are_apart(tmp_path: Path) -> None:
    lines = [
        call("session-1"),
        call("(none)"),
        call("(malformed)", root="whatever"),
        call("session-1", root="(malformed)"),
    ]
    audit = written(tmp_path / "audit.log", lines)
    output, _ = run(audit)
    assert "In no session: 3 of 4 calls, 75.0%: 1 (none), 2 (malformed)" in output
    assert {root: row["calls"] for (_, root, _), row in rows(audit).items() if root} == {
        "session-1": "1"
    }


def test_older_lines_have_no_root_and_no_key(tmp_path: Path) -> None:
    new = {"root", "key", "cached_tokens", "cache_write_tokens"}
    tokens = {"prompt_tokens", "completion_tokens"}
    old = {name: value for name, value in call("session-1").items() if name not in new}
    nginx = {name: value for name, value in old.items() if name not in tokens}
    (row,) = rows(written(tmp_path / "audit.log", [old, nginx])).items()
    assert row[0] == ("", "session-1", "session-1")
    assert (row[1]["calls"], row[1]["prompt"], row[1]["cached"]) == ("2", "10", "0")


def test_plain_and_gzip_are_read_together(tmp_path: Path) -> None:
    plain = written(tmp_path / "audit.log", [call("session-1")])
    packed = tmp_path / "audit.old"
    packed.write_bytes(gzip.compress(plain.read_bytes()) * 2)
    (row,) = rows(plain, packed).values()
    assert row["calls"] == "3"


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    audit = written(tmp_path / "audit.log", [call("session-1")])
    (tmp_path / "link.log").symlink_to(audit)
    (tmp_path / "hard.log").hardlink_to(audit)
    (row,) = rows(audit, tmp_path / "." / "audit.log", *tmp_path.glob("*.log")).values()
    assert row["calls"] == "1"


@pytest.mark.parametrize(
    "name",
    ["audit [1]*?.log", "a{b,c}.log", "a'b\\.log", "~.log", "key=1/session=2/audit.log", "a.zst"],
)
def test_a_file_may_have_any_name(name: str, tmp_path: Path) -> None:
    written(tmp_path / "audit 1xx.log", [call("session-2")])  # the first name is its pattern
    audit = tmp_path / name
    audit.parent.mkdir(parents=True, exist_ok=True)
    assert [*rows(written(audit, [call("session-1")]))] == [
        ("9af15b336e6a9619", "session-1", "session-1")
    ]


def test_lines_that_are_no_calls_are_counted_and_named(tmp_path: Path) -> None:
    whole, no_session = json.dumps(call("session-1")), call("session-1")
    del no_session["session"]
    lines: list[dict[str, Any] | str] = [
        "[NOTICE] (7) : Reloading",
        "",
        whole,
        whole[:99],
        no_session,
        "[1]",
        whole,
    ]
    audit = written(tmp_path / "audit.log", lines)
    output, errors = run(audit)
    assert errors == (
        "bill.py: 4 lines are left out, because they are no calls: "
        "audit.log:1 (not JSON), audit.log:4 (broken), audit.log:5 (broken), ...\n"
    )
    assert "0 of 2 calls" in output
    packed = tmp_path / "audit.gz"
    packed.write_bytes(gzip.compress(audit.read_bytes()))
    assert "audit.gz:4 (broken)" in run(packed)[1]
    good, later = (written(tmp_path / name, [call("session-1")]) for name in ("a.log", "b.log"))
    with later.open("a") as opened:
        opened.write('{"time": "2026-11-23T02:')
    assert run(good, later, good)[1].endswith(
        " 1 line is left out, because it is no call: b.log:2 (broken)\n"
    )


def test_half_a_line_may_be_whole_when_it_is_read_again(tmp_path: Path) -> None:
    audit = written(tmp_path / "audit.log", [call("session-1"), call("session-1")])
    line = audit.read_bytes()
    audit.write_bytes(line[:-9])
    growing = Bill([audit], str(tmp_path))
    audit.write_bytes(line)
    assert growing.total["calls"] == 1
    assert [*growing.notes()] == ["1 line is left out, because it is no call."]


def test_a_call_needs_a_time(tmp_path: Path) -> None:
    years = "0001-01-01T00:00:00Z", "294246-12-31T00:00:00Z"
    wrong = [call("session-1", time=time) for time in ("", "soon", "infinity", *years, 5, None)]
    audit = written(tmp_path / "audit.log", [call("session-1"), *wrong])
    output, errors = run(audit, "--html", tmp_path / "report.html")
    assert "0 of 1 calls" in output
    assert "7 lines are left out, because they are no calls: audit.log:2 (broken)" in errors


def test_a_number_that_cannot_be_right_counts_as_0(tmp_path: Path) -> None:
    names = "prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens"
    lines = [
        call(f"session-{n}", cost_usd=number, **dict.fromkeys(names, number))
        for n, number in enumerate(
            [-5, -(2**31), 2**32, 10**30, 1e300, math.inf, math.nan, "many", [1], None]
        )
    ]
    audit = written(tmp_path / "audit.log", [*lines, call("session-9", cost_usd=0.5)])
    for more in [], ["--prices", priced(tmp_path / "prices.json")]:
        *wrong, right = sorted(rows(audit, *more).values(), key=lambda row: row["session"])
        assert [[row[name] for name in SUMS[2:-1]] for row in wrong] == [["0"] * 4 + [""]] * 9
        assert [right[name] for name in SUMS[:-1]] == ["2", "0", "10", "4", "1", "2", "0.5"]
    assert "0 of 11 calls" in run(audit)[0]


def test_the_largest_numbers_of_tokens_do_not_overflow(tmp_path: Path) -> None:
    most = dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens"), 2**32 - 1)
    audit = written(tmp_path / "audit.log", [call("session-1", **most)] * 3)
    (row,) = rows(audit, "--prices", priced(tmp_path / "prices.json")).values()
    assert row["prompt"] == str(3 * (2**32 - 1))


def test_long_lines_are_read(tmp_path: Path) -> None:
    lines: list[dict[str, Any] | str] = [
        call("session-1"),
        call("session-1", model="x" * 2_000_000),
        "\0" * 2_000_000,
        call("session-1"),
    ]
    audit = written(tmp_path / "audit.log", lines)
    output, errors = run(audit)
    assert "0 of 3 calls" in output
    assert "audit.log:3 (not JSON)" in errors
    assert "audit.log" in error(written(audit, [call("session-1"), "\0" * 40_000_000]))


def test_a_file_may_grow_while_it_is_read(tmp_path: Path) -> None:
    audit, ended = tmp_path / "audit.log", threading.Event()
    line = json.dumps(call("session-1")).encode() + b"\n"
    audit.write_bytes(line * 300_000)

    def grow() -> None:
        with audit.open("ab", buffering=0) as opened:
            while not ended.wait(0.001):
                opened.write(line[:99])
                opened.write(line[99:] + line * 100)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        output, _ = run(audit)
    finally:
        ended.set()
        writer.join()
    calls = int(re.findall(r"0 of ([\d,]+) calls", output)[0].replace(",", ""))
    assert 300_000 <= calls <= audit.stat().st_size // len(line)


def test_prices_are_for_a_million_tokens_of_each_kind(tmp_path: Path) -> None:
    lines = [call("session-1"), call("session-2", cost_usd=0.5), call("session-3", model="other")]
    audit = written(tmp_path / "audit.log", lines)
    prices = priced(tmp_path / "prices.json")
    assert {
        session: (row["cost_usd"], row["unpriced"])
        for (_, _, session), row in rows(audit, "--prices", prices).items()
    } == {
        "session-1": ("0.000017", "0"),  # (5 * 1 + 4 * 0.5 + 1 * 2 + 2 * 4) / 1e6
        "session-2": ("0.5", "0"),
        "session-3": ("", "1"),
    }


@pytest.mark.parametrize("kind", ["prompt", "completion"])
def test_tokens_of_one_kind_have_a_price(kind: str, tmp_path: Path) -> None:
    """The answer of an embedding model has no completion."""
    kinds = "prompt", "completion", "cached", "cache_write"
    tokens: dict[str, Any] = {f"{name}_tokens": 54 if name == kind else None for name in kinds}
    audit = written(tmp_path / "audit.log", [call("session-1", **tokens)])
    prices = priced(tmp_path / "prices.json", {"gpt-4o-mini": {"prompt": 1, "completion": 1}})
    output, errors = run(audit, "--prices", prices, "--csv")
    assert ",0.000054,0," in output
    assert errors == ""


def test_models_without_a_price_are_named(tmp_path: Path) -> None:
    models = ["b"] * 2 + ["", "a", "\x1b" + "x" * 1000, "z"] + ["m"] * 3
    lines = [*(call("session-1", model=model) for model in models), call("(none)", time="soon")]
    audit = written(tmp_path / "audit.log", lines)
    _, errors = run(audit, "--prices", priced(tmp_path / "prices.json"))
    first = "no price for m: 3 calls, b: 2 calls, "
    assert errors.splitlines()[0] == f"bill.py: {first}\ufffd{'x' * 63}: 1 call, ..."
    audit = written(tmp_path / "audit.log", [call("session-1", model="")])
    _, errors = run(audit, "--prices", tmp_path / "prices.json")
    assert errors == "bill.py: no price for (no model): 1 call\n"
    assert run(audit)[1] == ""


def test_answers_without_tokens_are_counted(tmp_path: Path) -> None:
    """The audit of nginx has no tokens. HAProxy writes 0 if the answer does not state them."""
    nginx = {key: value for key, value in call("session-1").items() if "tokens" not in key}
    haproxy = call("session-1", prompt_tokens=0, completion_tokens=0)
    others = [{**nginx, "cost_usd": 0.5}, *({**nginx, "status": code} for code in (0, 199, 400))]
    audit = written(tmp_path / "audit.log", [haproxy, *others, call("session-1")])
    prices, page = priced(tmp_path / "prices.json"), tmp_path / "report.html"
    note = "1 call has no tokens in the audit, so it has no cost here."
    assert run(audit, "--prices", prices)[1] == f"bill.py: {note}\n"
    written(audit, [nginx, haproxy, *others, {**nginx, "time": "soon"}])
    _, errors = run(audit, "--prices", prices, "--html", page)
    note = "2 calls have no tokens in the audit, so they have no cost here."
    assert errors.startswith(f"bill.py: {note}\n")
    assert f"<p>{note}</p>" in page.read_text("utf-8")
    assert "tokens" not in run(audit)[1]


def test_the_bill_of_some_keys(tmp_path: Path) -> None:
    lines: list[dict[str, Any] | str] = [
        call("session-1"), call("(none)"), call("session-2", key="b' OR 1"),
        call("(none)", key="other"),
        {name: value for name, value in call("session-3").items() if name != "key"}, "[]",
    ]  # fmt: skip
    audit, page = written(tmp_path / "audit.log", lines), tmp_path / "report.html"
    keys = "--key", "9af15b336e6a9619", "--key", "b' OR 1"
    assert {place[0] for place in rows(audit, *keys)} == {"9af15b336e6a9619", "b' OR 1"}
    output, errors = run(audit, *keys, "--html", page)
    assert "2 of 2:" in output
    assert "In no session: 1 of 3 calls, 33.3%" in output
    assert "audit.log:6 (not JSON)" in errors
    assert "1 of 3 calls, 33.3%" in page.read_text("utf-8")
    assert "session-3" not in output + page.read_text("utf-8")
    assert [place[2] for place in rows(audit, "--key", "")] == ["session-3"]
    assert "there are no calls with such a key. 1 line is left" in error(audit, "--key", "9AF1")


@pytest.mark.parametrize(
    "since",
    [
        "2026-11-23T02:03:00Z",
        "2026-11-23T03:03:00+01:00",
        "2026-11-22T21:03:00-05:00",
        "2026-11-23 02:03",
    ],
)
def test_since_leaves_out_earlier_calls(since: str, tmp_path: Path) -> None:
    audit = written(tmp_path / "audit.log", [call("session-1"), "[]", call("session-2", 3)])
    for zone in "America/New_York", "Asia/Tokyo":
        output, errors = run(audit, "--since", since, TZ=zone)
        assert "session-2" in output
        assert "0 of 1 calls" in output
        assert "audit.log:2 (not JSON)" in errors


def test_it_says_that_there_are_no_calls_since_then(tmp_path: Path) -> None:
    audit = written(tmp_path / "audit.log", [call("session-1")])
    message = "bill.py: there are no calls since 2027-01-01."
    assert error(audit, "--since", "2027-01-01") == message


def test_top_is_a_number_from_1(tmp_path: Path) -> None:
    audit = written(tmp_path / "audit.log", [call("session-1"), call("session-2")])
    assert "is not a number from 1" in run(audit, "--top=0", status=2)[1]
    for top in "-1", "1.5", "many", "", str(2**63):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a number from 1"):
            bill.positive(top)
    output, _ = run(audit, "--top", 2**63 - 1)
    assert "2 of 2:" in output
    assert len(rows(audit, "--top", 1)) == 1


@pytest.mark.parametrize("more", [[], ["--csv"]])
def test_the_terminal_gets_no_control_characters(more: list[str], tmp_path: Path) -> None:
    lines = [call("\x1b[2J\r\nforged", key="\0\x9b"), call("\u202esub", root="\x07")]
    audit = written(tmp_path / "audit\x1b.log", [*lines, "[]"])
    output, errors = run(audit, *more)
    assert [char for char in output + errors if not char.isprintable() and char != "\n"] == []
    assert "\ufffd[2J\ufffd\ufffdforged" in output


def test_the_terminal_may_have_few_characters(tmp_path: Path) -> None:
    audit = written(tmp_path / "audit.log", [call("s\u00fc\u00df\x1b")])
    for more in [], ["--csv"]:
        assert "s???" in run(audit, *more, PYTHONIOENCODING="ascii")[0]


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    audit = written(tmp_path / "audit.log", [call("session-1")])
    assert "No such file" in error(tmp_path / "missing.log")
    assert error(written(tmp_path / "empty.log", [])) == "bill.py: there are no calls."
    assert "--since: 'soon' is no time" in error(audit, "--since", "soon")
    assert "is no time" in error(audit, "--since", "")
    assert error(tmp_path) == f"bill.py: {tmp_path} is no regular file"
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is no regular file" in error(tmp_path / "pipe", audit)
    assert "No such file" in error(audit, "--html", tmp_path / "no" / "report.html")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "Expecting value"),
        ("[]", ""),
        ("[" * 100_000, ""),
        ('{"gpt-4o": 1}', ""),
        ('{"gpt-4o": {"prompt": "1", "completion": 1}}', ""),
        ('{"gpt-4o": {"prompt": 1}}', "gpt-4o has no price for completion"),
        ('{"gpt-4o": {"completion": 1}}', "gpt-4o has no price for prompt"),
        (
            '{"gpt-4o": {"prompt": 1, "completions": 1}}',
            "gpt-4o has no price for completion and an unknown price 'completions'",
        ),
        (
            '{"gpt-4o": {"prompt": 1, "completion": 1, "cache": 1}}',
            "gpt-4o has an unknown price 'cache'",
        ),
        ('{"gpt-4o": {"prompt": NaN, "completion": 1}}', "a price of gpt-4o is not from 0 to 1e9"),
        (
            '{"gpt-4o": {"prompt": 1%s, "completion": 1}}' % ("0" * 400),
            "a price of gpt-4o is not from 0 to 1e9",
        ),
    ],
)
def test_wrong_prices_are_one_clear_line(text: str, problem: str, tmp_path: Path) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text(text, "utf-8")
    with pytest.raises(BillError) as raised:
        next(read_prices(prices))
    assert str(raised.value).startswith(f"{prices} has no prices as --help shows them: {problem}")


def test_a_gzip_that_is_cut_is_an_error(tmp_path: Path) -> None:
    audit = written(tmp_path / "audit.log", [call(f"session-{n}") for n in range(2000)])
    whole, cut = gzip.compress(audit.read_bytes()), tmp_path / "cut.gz"
    for size in 3, 20, len(whole) // 2, len(whole) - 9, len(whole) - 1:
        cut.write_bytes(whole[:size])
        assert "cut.gz" in error(audit, cut)
        cut.write_bytes(whole + whole[:size])
        assert "cut.gz" in error(cut)


def test_an_audit_is_not_overwritten(tmp_path: Path) -> None:
    audit = written(tmp_path / "audit.log", [call("session-1")])
    text = audit.read_text("utf-8")
    (tmp_path / "link.log").symlink_to(audit)
    assert "is an audit" in error(audit, "--html", tmp_path / "link.log")
    assert audit.read_text("utf-8") == text


def test_without_duckdb_it_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "duckdb.py").write_text("raise ModuleNotFoundError(\"No module named 'duckdb'\")")
    message = error("audit.log", PYTHONPATH=str(tmp_path))
    assert message == "bill.py: No module named 'duckdb': pip install \".[gateways]\""


def read_from(terminal: int) -> str:
    """Return what has been written to a pseudo-terminal, or an empty text at its end."""
    try:
        return os.read(terminal, 65536).decode()
    except OSError:  # Linux has this for a closed terminal
        return ""


def test_a_terminal_shows_the_progress_until_the_end(tmp_path: Path) -> None:
    audit = long_audit(tmp_path / "audit.gz", 2_000_000)
    terminal, stderr = pty.openpty()
    with started(audit, stderr=stderr) as program:
        os.close(stderr)
        text = "".join(iter(lambda: read_from(terminal), ""))
        output, _ = program.communicate(timeout=60)
    os.close(terminal)
    assert text.endswith("\r\x1b[K")  # the line is empty again
    bars = text.partition("\r\x1b[K")[0].split("\r")[1:]  # a slow machine also shows later queries
    assert all(re.fullmatch(r"\[(#* *)\] +\d+ %", bar) and len(bar) == 33 for bar in bars)
    shown = [int(bar.split()[-2]) for bar in bars]
    assert shown == sorted(shown)
    assert 50 < shown[-1] <= 100
    assert len(set(shown)) > 2
    assert b"%" not in output.partition(b"In no session")[0]


def test_without_a_terminal_there_is_no_progress(tmp_path: Path) -> None:
    assert run(long_audit(tmp_path / "audit.gz", 1_000_000))[1] == ""


@pytest.mark.usefixtures("_sigint")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly_and_at_once(number: signal.Signals, tmp_path: Path) -> None:
    """It would show 40 more bars until it is done."""
    audit, folder = long_audit(tmp_path / "audit.gz", 10_000_000), tmp_path / "temporary"
    folder.mkdir()
    terminal, stderr = pty.openpty()
    environ = {**os.environ, "TMPDIR": str(folder)}
    with started(audit, stderr=stderr, environ=environ) as program:
        os.close(stderr)
        while "%" not in read_from(terminal):  # DuckDB is at work
            pass
        assert [path.name.startswith("bill-") for path in folder.iterdir()] == [True]
        program.send_signal(number)
        text = "".join(iter(lambda: read_from(terminal), ""))
        assert program.communicate(timeout=60)[0] == b""
    os.close(terminal)
    assert program.returncode == 130
    end, bars = re.subn(r"\r\[.*?%", "", text)
    assert end == "\r\x1b[K"
    assert bars < 20
    assert [*folder.iterdir()] == []


@pytest.mark.parametrize(("more", "lines"), [([], 0), (["--csv"], 1)])
def test_the_reader_of_the_output_may_go(more: list[str], lines: int, tmp_path: Path) -> None:
    audit, folder = long_audit(tmp_path / "audit.gz", 10_000), tmp_path / "temporary"
    folder.mkdir()
    environ = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": ""}
    with started(audit, *more, stderr=subprocess.PIPE, environ=environ) as program:
        assert program.stdout
        assert program.stderr
        assert len([program.stdout.readline() for _ in range(lines)]) == lines
        program.stdout.close()
        assert program.stderr.read() == b""
    assert program.returncode == 1
    assert [*folder.iterdir()] == []


def chromium() -> str:
    path = shutil.which("chromium")
    if path is None:
        if "CI" in os.environ:
            raise FileNotFoundError("there is no chromium: apt-get install chromium")
        pytest.skip("there is no chromium: apt-get install chromium")
    return path


def test_chromium_draws_the_report(tmp_path: Path) -> None:
    lines: list[dict[str, Any] | str] = [
        call("the-root", 0), call("the-root", 59), call(SCRIPT, 10, key=SCRIPT), call("(none)"),
        call("sub-1", 30, root="the-root", model=SCRIPT), "[NOTICE]",
    ]  # fmt: skip
    audit, page = written(tmp_path / "audit.log", lines), tmp_path / "report.html"
    run(audit, "--prices", priced(tmp_path / "prices.json"), "--html", page)
    # Measure what is drawn. This script is the test's own, and the page's policy allows only this.
    script = """<script id="probe" nonce="probe">addEventListener("load", () => {
        const boxes = [...document.querySelectorAll("#sessions rect")].map(
            bar => bar.getBoundingClientRect());
        const widths = [...document.querySelectorAll("#share rect")].map(
            bar => bar.getBoundingClientRect().width);
        const texts = css => [...document.querySelectorAll(css)].map(cell => cell.textContent);
        document.body.dataset.drawn = JSON.stringify({
            bars: boxes.length, tall: boxes.filter(box => box.height > 100).length,
            share: widths[1] / widths[0], roots: document.querySelectorAll("tr.level0").length,
            subs: document.querySelectorAll("tr.level1").length,
            keys: texts("#keys td:first-child"), calls: texts("#keys td:nth-child(2)"),
            notes: texts("#notes p"), title: document.title,
            strange: document.querySelectorAll("img, script:not(#probe)").length,
            requests: performance.getEntriesByType("resource").length})})</script>"""
    text = page.read_text("utf-8")
    assert "default-src 'none'; style-src 'unsafe-inline'\"" in text
    page.write_text(text.replace("style-src", "script-src 'nonce-probe'; style-src") + script)
    network = tmp_path / "network.json"
    dom = subprocess.run(
        [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={network}", page.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    drawn = json.loads(unescape(dom.partition('data-drawn="')[2].partition('"')[0]))
    assert drawn.pop("share") == pytest.approx(1 / 5, abs=0.01)
    assert drawn == {
        "bars": 60, "tall": 2, "roots": 2, "subs": 2, "strange": 0, "requests": 0,
        "keys": ["9af15b336e6a9619", SCRIPT], "calls": ["4", "1"],
        "notes": [
            f"no price for {SCRIPT[:64]}: 1 call",
            "1 line is left out, because it is no call: audit.log:6 (not JSON)",
        ],
        "title": "What each session spent",
    }  # fmt: skip
    assert "127.0.0.1:1/" not in network.read_text("utf-8")


def test_many_lines_take_little_memory(tmp_path: Path) -> None:
    audit = tmp_path / "audit.log"
    bill_benchmark.write(audit, 200_000)
    figures = bill_benchmark.bill_of(audit)
    assert "0 of 200,000 calls" in figures.output
    assert figures.megabytes < 1024


def test_many_sessions_take_little_memory(tmp_path: Path) -> None:
    """Without the limit in spending.py, DuckDB takes more than 1 GB for them."""
    audit = tmp_path / "audit.log"
    line = '{"time": "2026-11-23T02:00:00Z", "session": "%08x-5c1d-4b0a-%012x", "status": 200}\n'
    with audit.open("w", encoding="utf-8") as lines:
        lines.writelines(line % (n * 2654435761 % 2**32, n) for n in range(1_250_000))
    figures = bill_benchmark.bill_of(audit)
    assert "20 of 1,250,000:" in figures.output
    assert figures.megabytes < 1024


def test_the_guide_shows_the_output(tmp_path: Path) -> None:
    lines = [
        call("orders", 0, cached_tokens=0, prompt_tokens=900, completion_tokens=40),
        call("stock", 1, root="orders", cached_tokens=0, prompt_tokens=400, completion_tokens=90),
        call("orders", 2, key="c81e728d9d4c2f63", status=429, prompt_tokens=0, cached_tokens=0),
        call("(none)", 9, key="c81e728d9d4c2f63", cached_tokens=0),
    ]
    for line in lines:
        line["cache_write_tokens"] = 0
    output, errors = run(written(tmp_path / "audit.log", lines))
    assert errors == ""
    guide = (programs.HERE / "README.rst").read_text("utf-8")
    assert textwrap.indent(output, "    ") in guide


def test_the_audits_of_all_gateways_are_read(name: str, gateway: Gateway) -> None:
    before, root, part = len(gateway.audit()), new_session_id(), new_session_id()
    statuses(gateway, root, 2)
    statuses(gateway, root, 1, OTHER_KEYS[0])
    with agent(gateway) as http, session_scope(root), sub_session(part):
        assert http.post(gateway.url + CHAT, json=question(), timeout=TIMEOUT).ok
    gateway.audit(before + 4)
    spent = {place: row for place, row in rows(gateway.audit_file).items() if place[1] == root}
    key, other = fingerprint_of(CLIENT_KEY), fingerprint_of(OTHER_KEYS[0])
    assert {place: (row["calls"], row["errors"]) for place, row in spent.items()} == {
        (key, root, root): ("2", "0"),
        (key, root, part): ("1", "0"),
        (other, root, root): ("1", "0"),
    }
    row = spent[key, root, root]
    tokens = ("4", "8") if name in COUNT_TOKENS else ("0", "0")
    assert (row["prompt"], row["completion"]) == tokens
    assert bool(row["cost_usd"]) == (name == "litellm")
    if name == "litellm":
        assert float(row["cost_usd"]) == pytest.approx(2 * price_of(2))
