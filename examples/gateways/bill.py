"""Show what each session spent, from the audits of the gateways in this folder.

    pip install ".[gateways]"
    python examples/gateways/bill.py audit.log
    python examples/gateways/bill.py audit.log audit.log.1.gz --html report.html

The files may be plain or gzip, and may come from different gateways. Each root session has a line
with its sums. If it has sub-sessions, the lines below it are its own calls and theirs. Sessions of
different API keys are different sessions, even if their IDs are the same.

prices.json has US dollars for a million tokens, by model: {"gpt-4o-mini": {"prompt": 0.15,
"cached": 0.075, "cache_write": 0.15, "completion": 0.6}}. Without a price of their own, cached
tokens and cache writes cost as much as the prompt's other tokens. The cost in LiteLLM's audit is
used as it is.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from html import escape
from io import TextIOWrapper
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

try:
    import duckdb
    from spending import MOST_FIRST, SUMS, Bill, BillError, Row
except ImportError as error:
    sys.exit(f'bill.py: {error}: pip install ".[gateways]"')

TIMES = ("first", "last")
NO_SESSION = ("(none)", "(malformed)")


def printable(text: str) -> str:
    """Return *text* without characters that could move the terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def text_of(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    return f"{value:,}" if isinstance(value, int) else printable(str(value or ""))


def print_table(names: Sequence[str], rows: Sequence[Row]) -> None:
    table = [[*names], *([text_of(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = [any(isinstance(row.get(name), (int, float)) for row in rows) for name in names]
    for cells in table:
        print("  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(cells, widths, right, strict=True)
        ).rstrip())  # fmt: skip


def columns_of(total: Row) -> list[str]:
    """Return the columns of sums that are not empty."""
    return [name for name in SUMS[:-1] if name in {"calls", "errors"} or total[name]]


def share(calls: dict[str, int], total: Row) -> str:
    part = sum(calls.values())
    kinds = ", ".join(f"{calls[kind]:,} {kind}" for kind in NO_SESSION if kind in calls)
    return f"{part:,} of {total['calls']:,} calls, {part / total['calls']:.1%}" + (
        f": {kinds}" if kinds else ""
    )


def print_bill(bill: Bill, top: int) -> None:
    columns = [*columns_of(bill.total), *TIMES]
    tree = bill.tree(top)
    shown = sum(row["level"] == 0 for row in tree)
    print(f"The root sessions that spent most, {shown:,} of {bill.roots:,}:")
    print_table(
        ["session", "key", *columns],
        [{**row, "session": "  " * row["level"] + row["session"]} for row in tree],
    )
    print("\nEach API key, with its calls in no session:")
    print_table(["key", *columns], bill.keys(top))
    print("\nIn no session:", share(bill.unattributed(), bill.total))


def plain(value: object) -> object:
    """Return a number without an exponent."""
    return f"{value:.12f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def print_csv(bill: Bill, top: int | None) -> None:
    names = ["key", "root", "session", *SUMS, *TIMES]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    limit = f"LIMIT {top}" if top else ""
    rows = bill.execute(f"SELECT {', '.join(names)} FROM sessions ORDER BY {MOST_FIRST} {limit}")
    while some := rows.fetchmany(10_000):
        writer.writerows([*map(printable, row[:3]), *map(plain, row[3:])] for row in some)


def html_row(tag: str, values: Iterable[object], level: object = "") -> str:
    cells = "".join(f"<{tag}>{escape(text_of(value))}</{tag}>" for value in values)
    return f'<tr class="level{level}">{cells}</tr>'


def html_table(names: Sequence[str], rows: Sequence[Row]) -> str:
    lines = (html_row("td", map(row.get, names), row.get("level", "")) for row in rows)
    return "\n".join([html_row("th", names), *lines])


def report(bill: Bill, top: int, notes: Sequence[str]) -> str:
    """Return an HTML page. It has no scripts, and everything from the audit is escaped."""
    columns = ["key", *columns_of(bill.total), *TIMES]
    bars, calls = bill.over_time(), bill.unattributed()
    tallest, part = max(1, *bars), sum(calls.values()) / bill.total["calls"]
    drawn = (
        f'<rect x="{10 * n}" y="{100 - 100 * bar / tallest:.2f}" width="9"'
        f' height="{100 * bar / tallest:.2f}"><title>{bar:,}</title></rect>'
        for n, bar in enumerate(bars)
    )
    return Template(Path(__file__).with_name("bill.html").read_text("utf-8")).substitute(
        first=bill.total["first"], last=bill.total["last"], tallest=f"{max(bars):,}",
        bars="\n".join(drawn), sessions=html_table(["session", *columns], bill.tree(top)),
        keys=html_table(columns, bill.keys(top)),
        share=escape(share(calls, bill.total)), width=f"{600 * part:.2f}",
        notes="".join(f"<p>{escape(note)}</p>" for note in notes),
    )  # fmt: skip


def positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("audit", nargs="+", type=Path, help="a gateway's audit, plain or gzip")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a report to look at")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="US dollars, by model")
    parser.add_argument(
        "--top",
        type=positive,
        metavar="N",
        help="how many roots, and sessions of each (20); with --csv, how many sessions (all)",
    )
    since = "only calls from this time on, in UTC if it has no zone"
    parser.add_argument("--since", default="-infinity", metavar="TIME", help=since)
    key = "only calls with this key; may be given more than once"
    parser.add_argument("--key", action="append", default=[], metavar="FINGERPRINT", help=key)
    parser.add_argument("--csv", action="store_true", help="print a line for each session instead")
    return parser.parse_args()


def show(options: argparse.Namespace) -> None:
    if options.html and options.html.exists() and any(map(options.html.samefile, options.audit)):
        raise BillError(f"--html: {options.html} is an audit")
    with TemporaryDirectory(prefix="bill-") as folder:
        bill = Bill(options.audit, folder, options.prices, options.since, options.key)
        notes = list(bill.notes())
        if not bill.total["calls"]:
            which = " with such a key" if options.key else ""
            which += f" since {options.since}" if options.since != "-infinity" else ""
            raise BillError(" ".join([f"there are no calls{which}.", *notes]))
        if options.html:
            options.html.write_text(report(bill, options.top or 20, notes), "utf-8")
        if options.csv:
            print_csv(bill, options.top)
        else:
            print_bill(bill, options.top or 20)
        sys.stdout.flush()
        for note in notes:
            print("bill.py:", printable(note), file=sys.stderr)


def main() -> int:
    options = arguments()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has all characters
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to remove the temporary folder
    try:
        show(options)
    except BrokenPipeError:  # the reader has gone, such as "head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (BillError, OSError, duckdb.Error) as error:
        print("bill.py:", printable(str(error).splitlines()[0]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
