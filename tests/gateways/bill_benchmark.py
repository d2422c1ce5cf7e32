"""Measure bill.py against DuckDB's own count of the lines.

    python tests/gateways/bill_benchmark.py [LINES]

The default is ten million lines. They take 4 GB in the folder for temporary files. DuckDB's count
of the lines looks at no field of them. A count of one field takes 1.7 times as long. The bill needs
eleven fields, and must take at most twice as long as the count of one field.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

PROGRAM = Path(__file__).parents[2] / "examples" / "gateways" / "bill.py"
COUNT = """
import duckdb, sys
print(duckdb.execute(f"SELECT count({sys.argv[1]}) FROM read_json($1)", sys.argv[2:]).fetchone()[0])
"""
LINE = (
    '{"time": "2026-11-%02dT%02d:%02d:%02d+00:00", "session": "%08x-5c1d-4b0a-9b7e-%012x",'
    ' "root": "%08x-5c1d-4b0a-9b7e-%012x", "key": "%016x", "client": "10.0.0.7",'
    ' "provider": "openai", "model": "gpt-4o-mini", "method": "POST",'
    ' "path": "/v1/chat/completions", "status": %d, "duration_ms": 912, "prompt_tokens": %d,'
    ' "completion_tokens": %d, "cached_tokens": %d, "cache_write_tokens": 0}\n'
)


class Figures(NamedTuple):
    seconds: float
    megabytes: int
    output: str


def write(file: Path, lines: int) -> None:
    """Write the calls of sessions with 50 calls each. A hundred of them are open at a time."""
    with file.open("w", encoding="utf-8") as opened:
        for n in range(lines):
            session = n // 5000 * 100 + n * 37 % 100
            root, second = session - session % 4, n // 10
            opened.write(
                LINE
                % (
                    1 + second // 86400 % 30, second // 3600 % 24, second // 60 % 60, second % 60,
                    session * 2654435761 % 2**32, session, root * 2654435761 % 2**32, root,
                    session // 400, 429 if n % 17 == 0 else 200, n % 9000, n % 900, n % 500,
                )
            )  # fmt: skip


def measured(*command: str) -> Figures:
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout
        output = program.stdout.read()
        _, status, usage = os.wait4(program.pid, 0)
        program.returncode = os.waitstatus_to_exitcode(status)
    assert program.returncode == 0
    return Figures(time.perf_counter() - start, usage.ru_maxrss // 1024, output)


def bill_of(file: Path) -> Figures:
    return measured(sys.executable, str(PROGRAM), str(file))


def count_of(file: Path, what: str) -> Figures:
    return measured(sys.executable, "-c", COUNT, what, str(file))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        audit = Path(folder) / "audit.log"
        write(audit, int([*sys.argv, "10000000"][1]))
        # Measure each three times in turn, and take the shortest times.
        turns = [
            (count_of(audit, "*"), count_of(audit, "session"), bill_of(audit)) for _ in range(3)
        ]
    count, field, bill = (min(figures) for figures in zip(*turns, strict=True))
    print(f"count of lines {count.seconds:.2f} s, of one field {field.seconds:.2f} s")
    print(f"bill {bill.seconds:.2f} s, at most {max(turn[2].megabytes for turn in turns):,} MB")
    print(f"{bill.seconds / count.seconds:.2f} times the count of lines")
    print(f"{bill.seconds / field.seconds:.2f} times the count of one field")
    sys.exit(bill.seconds > 2 * field.seconds)
