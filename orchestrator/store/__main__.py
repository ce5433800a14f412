"""The command on stores: ``python -m orchestrator.store merge|usage|clean``."""

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence

import shtab
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from orchestrator.errors import Interrupted, SpecError, StudyError
from orchestrator.files import given_path
from orchestrator.plan.columns import DAY
from orchestrator.store.store import Store
from orchestrator.store.upkeep import (
    Total,
    by_age,
    by_stage,
    contents,
    merge,
    outdated,
    rested_on,
)
from orchestrator.terminal import Interrupts, Parser, Subparser, as_process

_UNITS = {"h": DAY / 24, "d": DAY, "w": 7 * DAY}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = _parser().parse_args(argv)
    console = Console(highlight=False)
    interrupts = Interrupts()
    try:
        with interrupts.watched():
            arguments.work(arguments, console, interrupts)
    except StudyError as stop:
        text = str(stop) if isinstance(stop, SpecError) else f"error: {stop}"
        if isinstance(stop, Interrupted):
            text = f"stopped by {stop}; the same command again does the rest"
        errors = Console(stderr=True, highlight=False)
        errors.print(text, markup=False, soft_wrap=True)
        return stop.exit_code
    return 0


def _merge(arguments: argparse.Namespace, console: Console, interrupts: Interrupts) -> None:
    store, source = Store(arguments.store), Store(arguments.source)
    done = merge(store, source, interrupts.check)
    _say(console, f"copied {_amount(done.copied)}; {_entries(done.there)} already there")
    if done.damaged:
        _say(console, f"left out {_entries(done.damaged)} of {source.url}: damaged")


def _usage(arguments: argparse.Namespace, console: Console, interrupts: Interrupts) -> None:
    del interrupts
    holdings = contents(Store(arguments.store))
    _show(console, "stage", by_stage(holdings))
    console.print()
    _show(console, "age", by_age(holdings, time.time()))


def _clean(arguments: argparse.Namespace, console: Console, interrupts: Interrupts) -> None:
    store = Store(arguments.store)
    holdings = contents(store)
    needed = None
    if arguments.keep:
        needed, others = rested_on(arguments.keep)
        if others:
            _say(console, f"no study is in {', '.join(map(str, others))}")
    old = outdated(holdings, time.time() - arguments.older_than, needed)
    if not old:
        _say(console, f"nothing to delete among {_entries(len(holdings))}")
        return
    total = _show(console, "stage", by_stage(old))
    if not arguments.yes:
        _say(console, f"{_amount(total)} would be deleted; --yes deletes them")
        return
    gone = Total()
    for one in old:
        interrupts.check()
        if store.remove(one.stage, one.key):
            gone.add(one.size)
    _say(console, f"deleted {_amount(gone)}")


def _show(console: Console, what: str, totals: Mapping[str, Total]) -> Total:
    """Print a table with a line for the sum, and return the sum."""
    table = Table(what, box=None, padding=(0, 2))
    for name in ("entries", "size"):
        table.add_column(name, justify="right")
    whole = Total()
    for name, total in totals.items():
        table.add_row(name, f"{total.entries:,}", decimal(total.size))
        whole = Total(entries=whole.entries + total.entries, size=whole.size + total.size)
    table.add_row("all", f"{whole.entries:,}", decimal(whole.size))
    console.print(table)
    return whole


def _amount(total: Total) -> str:
    return f"{_entries(total.entries)}, {decimal(total.size)}"


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number:,} entries"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _age(text: str) -> float:
    """Return an age in seconds: 12h, 30d, 4w."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"an age is like 12h, 30d or 4w; got {text!r}")
    return float(match[1]) * _UNITS[match[2]]


def _store(text: str) -> str:
    return text if "://" in text else str(given_path(text))


def _parser() -> Parser:
    description = "Merge, measure and clean stores of results: folders, or URLs that fsspec knows."
    parser = Parser("orchestrator.store", "ulrl-store", description)
    kinds = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Subparser)

    text = "copy into store A what store B has and A lacks"
    one = kinds.add_parser("merge", help=text, description=text)
    _add_store(one, "store", "A", "the store to copy into; a new one is made")
    _add_store(one, "source", "B", "the store to copy from, which stays as it is")
    one.set_defaults(work=_merge)

    text = "show entries and bytes by stage and by age"
    one = kinds.add_parser("usage", help=text, description=text)
    _add_store(one, "store", "DIR", "the store")
    one.set_defaults(work=_usage)

    text = "delete old entries; without --yes, show what would be deleted"
    one = kinds.add_parser("clean", help=text, description=text)
    _add_store(one, "store", "DIR", "the store")
    text = "delete what was stored longer ago: 12h, 30d, 4w"
    one.add_argument("--older-than", metavar="AGE", type=_age, required=True, help=text)
    text = "study folders, as runs/*; no result that they rest on is deleted"
    keep = one.add_argument(
        "--keep", metavar="DIR", nargs="+", action="extend", default=[], type=given_path, help=text
    )
    keep.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    one.add_argument("--yes", action="store_true", help="delete")
    one.set_defaults(work=_clean)
    return parser


def _add_store(parser: argparse.ArgumentParser, name: str, shown: str, text: str) -> None:
    place = parser.add_argument(name, metavar=shown, type=_store, help=text)
    place.complete = shtab.DIRECTORY  # type: ignore[attr-defined]


def command() -> int:
    """Be the command `ulrl-store`."""
    return as_process(main)


if __name__ == "__main__":
    sys.exit(command())
