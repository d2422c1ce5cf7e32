"""Add up the calls in the audits of the gateways, with DuckDB."""

from __future__ import annotations

import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb

MEMORY = "768MiB"  # DuckDB writes what does not fit to a temporary folder
NAMED = 3  # of the lines that are no calls, the first few are named
BARS = 60  # intervals in the report
PRICED = ("prompt", "cached", "cache_write", "completion")
SUMS = ("calls", "errors", *PRICED, "cost_usd", "unpriced")

Row = dict[str, Any]

# DuckDB reads a value of the wrong type, and each value of a broken line, as NULL. So a count of
# tokens that is no number from 0 counts as 0. DuckDB would also read values from a path such as
# "key=1/audit.log".
LINES = """
    SELECT {number} AS file,
        * REPLACE (CASE WHEN cost_usd BETWEEN 0 AND 1e9 THEN cost_usd END AS cost_usd)
    FROM read_json({file}, format = 'newline_delimited', compression = '{compression}',
        ignore_errors = true, hive_partitioning = false, columns = {{
            time: 'TIMESTAMPTZ', session: 'VARCHAR', root: 'VARCHAR', key: 'VARCHAR',
            model: 'VARCHAR', status: 'SMALLINT',
            prompt_tokens: 'UINTEGER', cached_tokens: 'UINTEGER',
            cache_write_tokens: 'UINTEGER', completion_tokens: 'UINTEGER', cost_usd: 'DOUBLE'}})
"""
IS_CALL = """coalesce(time BETWEEN TIMESTAMPTZ '1970-01-01' AND TIMESTAMPTZ '9999-12-31'
    AND session IS NOT NULL AND status IS NOT NULL, false)"""
# Reading the lines takes the time. So they are read once, and what can be done later is done later.
# Without an answer, the status is 0 in Envoy's audit, and may be -1 in HAProxy's.
READ = f"""
    SELECT CASE WHEN NOT {IS_CALL} THEN file END AS file_left_out, key, root, session,
        count(*) AS calls, count(*) FILTER (status NOT BETWEEN 100 AND 399) AS errors,
        sum(prompt_tokens) AS prompt, sum(cached_tokens) AS cached,
        sum(cache_write_tokens) AS cache_write, sum(completion_tokens) AS completion,
        sum({{cost}}) AS cost_usd, count({{unpriced}}) AS unpriced,
        {{unpriced}} AS unpriced_model, count(*) FILTER ({{free}}) AS free,
        min(time) AS first, max(time) AS last
    FROM ({{lines}}) {{where}} GROUP BY ALL
"""
# Older calls have no root and no key.
SESSIONS = f"""
    SELECT coalesce(key, '') AS key,
        CASE WHEN session IN ('', '(none)', '(malformed)') OR root = '(malformed)' THEN ''
            WHEN root IS NULL OR root IN ('', '(none)') THEN session ELSE root END AS root,
        CASE WHEN session = '' THEN '(none)'
            WHEN root = '(malformed)' THEN '(malformed)' ELSE session END AS session,
        {", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in SUMS if name != "cost_usd")},
        sum(cost_usd) AS cost_usd,
        strftime(min(first), '%Y-%m-%dT%H:%M:%SZ') AS first,
        strftime(max(last), '%Y-%m-%dT%H:%M:%SZ') AS last
    FROM read WHERE file_left_out IS NULL GROUP BY 1, 2, 3
"""
# LiteLLM's cost is 0 if it knows no price. Prompt tokens include the cached and cache write tokens.
TOKENS = "coalesce(greatest(prompt_tokens, completion_tokens), 0)"
COST = f"""coalesce(nullif(cost_usd, 0), CASE WHEN {TOKENS} > 0 THEN (
    coalesce(prompt_tokens, 0) * p.prompt + coalesce(completion_tokens, 0) * p.completion
    + coalesce(cached_tokens, 0) * (p.cached - p.prompt)
    + coalesce(cache_write_tokens, 0) * (p.cache_write - p.prompt)) / 1e6 END, cost_usd)"""
UNPRICED = f"""CASE WHEN {COST} IS NULL AND {TOKENS} > 0
    THEN coalesce(nullif(model[:64], ''), '(no model)') END"""
FREE = f"status BETWEEN 200 AND 399 AND {TOKENS} = 0 AND coalesce(cost_usd, 0) = 0"
ADDED = ", ".join(
    [f"sum({name}) AS {name}" for name in SUMS]
    + ["min(first) AS first", "max(last) AS last", "count(*) AS sessions"]
)
ROOTS = f"SELECT key, root, root AS session, {ADDED} FROM sessions WHERE root != '' GROUP BY 1, 2"
KEYS = f"SELECT key, '' AS root, '' AS session, {ADDED} FROM sessions GROUP BY 1"
MOST_FIRST = "cost_usd DESC NULLS LAST, prompt + completion DESC, calls DESC, key, root, session"


class BillError(Exception):
    """There can be no bill. The message says why."""


class Bill:
    """The sums of each session. They are in a temporary table of DuckDB."""

    def __init__(
        self,
        files: Sequence[Path],
        folder: str,
        prices: Path | None = None,
        since: str = "-infinity",
        keys: Sequence[str] = (),
    ) -> None:
        self.files = regular_files(files)
        self.duckdb = duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": folder})
        self.duckdb.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        self.duckdb.execute("SET preserve_insertion_order = false; SET TimeZone = 'UTC'")
        lines = " UNION ALL ".join(lines_of(file, n) for n, file in enumerate(self.files))
        try:
            self.duckdb.execute("SELECT $1::TIMESTAMPTZ", [since])
        except duckdb.Error:
            raise BillError(f"--since: {since!r} is no time like 2026-11-23T02:28Z") from None
        # DuckDB's progress counts reading as half of the work if there is no condition here.
        where = f"time >= {quoted(since)}::TIMESTAMPTZ"
        if keys:
            where += f" AND coalesce(key, '') IN ({', '.join(map(quoted, keys))})"
        where = f"WHERE {where} OR NOT {IS_CALL}"
        cost, unpriced, free = "cost_usd", "NULL", "false"
        if prices:
            columns = ", ".join(f"{kind} DOUBLE" for kind in PRICED)
            self.duckdb.execute(f"CREATE TABLE prices (model VARCHAR, {columns})")
            for row in read_prices(prices):
                self.duckdb.execute("INSERT INTO prices VALUES (?, ?, ?, ?, ?)", row)
            where = f"LEFT JOIN prices p USING (model) {where}"
            cost, unpriced, free = COST, UNPRICED, FREE
        query = READ.format(lines=lines, cost=cost, unpriced=unpriced, free=free, where=where)
        self.execute(f"CREATE TABLE read AS {query}")
        self.execute(f"CREATE TABLE sessions AS {SESSIONS}")
        (self.total,) = self.rows(f"SELECT {ADDED} FROM sessions")
        self.roots: int = self.rows(f"SELECT count(*) AS roots FROM ({ROOTS})")[0]["roots"]

    def execute(self, query: str) -> duckdb.DuckDBPyConnection:
        """Execute *query*, and show on the terminal how far it is.

        DuckDB's own bar would be on stdout. The query has a thread, because a signal can't stop it
        in the main thread: DuckDB then reads on to the end of the file.
        """
        shown = False
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(self.duckdb.execute, query)
            try:
                while not wait([job], 0.2).done:
                    if shown := sys.stderr.isatty():
                        done = max(0, min(100, int(self.duckdb.query_progress())))
                        bar = f"[{'#' * (done // 4):25}] {done:3} %"
                        print(f"\r{bar}", end="", file=sys.stderr, flush=True)
            except BaseException:
                while not wait([job], 0.05).done:  # again, because it may not have begun
                    self.duckdb.interrupt()
                raise
            finally:
                if shown:
                    print("\r\033[K", end="", file=sys.stderr, flush=True)
        return job.result()

    def rows(self, query: str) -> list[Row]:
        cursor = self.execute(query)
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def tree(self, top: int) -> list[Row]:
        """Return the *top* roots, each followed by at most as many of its sessions."""
        roots = f"FROM ({ROOTS}) ORDER BY {MOST_FIRST} LIMIT {top}"
        order = f"ORDER BY root = session DESC, {MOST_FIRST}"
        parts: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self.rows(
            f"FROM sessions SEMI JOIN ({roots}) USING (key, root) QUALIFY row_number()"
            f" OVER (PARTITION BY key, root {order}) <= {top} {order}"
        ):
            parts[row["key"], row["root"]].append({**row, "level": 1})
        tree: list[Row] = []
        for root in self.rows(roots):
            tree.append({**root, "level": 0})
            below = parts[root["key"], root["root"]]
            if root["sessions"] > 1 or below[0]["session"] != root["root"]:
                tree += below
            if hidden := root["sessions"] - len(below):
                tree.append({"session": f"... and {hidden:,} more", "level": 1})
        return tree

    def keys(self, top: int) -> list[Row]:
        return self.rows(f"FROM ({KEYS}) ORDER BY {MOST_FIRST} LIMIT {top}")

    def unattributed(self) -> dict[str, int]:
        """Return the number of calls without an ID, and of those with a malformed one."""
        query = "SELECT session, sum(calls) FROM sessions WHERE root = '' GROUP BY session"
        return dict(self.execute(query).fetchall())

    def over_time(self) -> list[int]:
        """Return how many sessions had begun and not ended, in each of the :data:`BARS`."""
        query = f"""
            WITH ends AS (SELECT epoch(first::TIMESTAMPTZ) AS a, epoch(last::TIMESTAMPTZ) AS z
                FROM sessions WHERE root != ''),
            span AS (
                SELECT min(a) AS start, greatest(max(z) - min(a), 1) / {BARS} AS width FROM ends),
            bars AS (SELECT least(floor((a - start) / width), {BARS - 1}) AS opens,
                least(floor((z - start) / width), {BARS - 1}) AS closes FROM ends, span),
            changes AS (SELECT opens AS bar, count(*) AS change FROM bars GROUP BY 1 UNION ALL
                SELECT closes + 1, -count(*) FROM bars GROUP BY 1)
            SELECT coalesce((SELECT sum(change) FROM changes WHERE bar <= range), 0)
            FROM range({BARS}) ORDER BY range"""
        return [int(row[0]) for row in self.execute(query).fetchall()]

    def notes(self) -> Iterator[str]:
        """Say what is not on the bill."""
        calls = "FROM read WHERE file_left_out IS NULL"
        unpriced = self.rows(
            f"SELECT unpriced_model AS model, sum(unpriced) AS calls {calls} AND unpriced > 0"
            f" GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {NAMED + 1}"
        )
        if unpriced:
            models = [f"{row['model']}: {number_of(row['calls'])}" for row in unpriced]
            yield f"no price for {', '.join([*models[:NAMED], *(models[NAMED:] and ['...'])])}"
        if free := self.rows(f"SELECT sum(free) AS calls {calls}")[0]["calls"]:
            one = "call has no tokens in the audit, so it has no cost here."
            many = "calls have no tokens in the audit, so they have no cost here."
            yield number_of(free, one, many)
        left_out = self.execute(
            "SELECT file_left_out, sum(calls) FROM read WHERE file_left_out IS NOT NULL"
            " GROUP BY 1 ORDER BY 1"
        ).fetchall()
        if left_out:
            count = sum(lines for _, lines in left_out)
            places = (place for n, lines in left_out for place in self.places(n, lines))
            named = ", ".join([*islice(places, NAMED), *(["..."] if count > NAMED else [])])
            # The end of a growing file was half a line, and may be whole when it is read again.
            named = f": {named}" if named else "."
            one = "line is left out, because it is no call"
            many = "lines are left out, because they are no calls"
            yield number_of(count, one, many) + named

    def places(self, number: int, left_out: int) -> Iterator[str]:
        """Name the lines of a file that are no calls, and say whether they are JSON at all."""
        file = self.files[number]
        self.duckdb.execute("SET preserve_insertion_order = true")
        query = f"SELECT row_number() OVER () AS row, * FROM ({lines_of(file)})"
        query = f"SELECT row FROM ({query}) WHERE NOT {IS_CALL} LIMIT {min(left_out, NAMED)}"
        rows = [row for (row,) in self.execute(query).fetchall()]
        with gzip.open(file) if is_gzip(file) else file.open("rb") as lines:
            # DuckDB passes over empty lines.
            filled = ((n, line) for n, line in enumerate(lines, 1) if not line.isspace())
            for row, (n, line) in enumerate(islice(filled, max(rows, default=0)), 1):
                if row in rows:
                    kind = "broken" if line.lstrip().startswith(b"{") else "not JSON"
                    yield f"{file.name}:{n} ({kind})"


def regular_files(files: Sequence[Path]) -> list[Path]:
    """Return each file once. They are read twice, so a pipe is none."""
    found = {}
    for file in files:
        stat = file.stat()
        if not file.is_file():
            raise BillError(f"{file} is no regular file")
        found[stat.st_dev, stat.st_ino] = file.absolute()
    return list(found.values())


def number_of(count: int, one: str = "call", many: str = "calls") -> str:
    return f"{count:,} {one if count == 1 else many}"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def is_gzip(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) == b"\x1f\x8b"


def lines_of(file: Path, number: int = 0) -> str:
    pattern = "".join(f"[{char}]" if char in "*?[" else char for char in str(file))
    compression = "gzip" if is_gzip(file) else "uncompressed"
    return LINES.format(file=quoted(pattern), number=number, compression=compression)


def read_prices(file: Path) -> Iterator[list[Any]]:
    try:
        for model, prices in json.loads(file.read_text("utf-8")).items():
            wrong = [
                f"no price for {name}" for name in ("prompt", "completion") if name not in prices
            ]
            wrong += [f"an unknown price {name!r}" for name in prices if name not in PRICED]
            if wrong:
                raise ValueError(f"{model} has {' and '.join(wrong)}")  # noqa: TRY301
            row = {"cached": prices["prompt"], "cache_write": prices["prompt"], **prices}
            if not all(0 <= price <= 1e9 for price in row.values()):
                raise ValueError(f"a price of {model} is not from 0 to 1e9")  # noqa: TRY301
            yield [model, *(float(row[kind]) for kind in PRICED)]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise BillError(f"{file} has no prices as --help shows them: {error}") from None
