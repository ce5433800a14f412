"""All benchmarks, one after the other, into a folder: ``python -m benchmarks OUT``.

Each leaves its tables as ``OUT/NAME.md``; the lines of JSON come together in ``OUT/results.jsonl``,
each with device, versions, commit and load. One that fails, takes too long or lacks a library
(Ray and MLflow are not on every GPU machine) leaves what it said, and the others go on; the exit
code is then 1. For figures worth keeping nothing else should run on the machine.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._common import ROOT, environment, table

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))


def main(argv: list[str] | None = None) -> int:
    """Run them, print a line for each, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for what they print")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="pass --quick on: no figures")
    parser.add_argument("--limit", type=float, default=600, help="seconds of each; default: 600")
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    said = environment()
    print(", ".join(f"{name} {value}" for name, value in said.items()))
    rows = []
    with (given.out / "results.jsonl").open("a", encoding="utf-8") as kept:
        for name in given.only:
            command = [sys.executable, "-m", f"benchmarks.{name}"]
            outcome, seconds, line = run(
                [*command, *(["--quick"] if given.quick else [])],
                given.out / f"{name}.md",
                given.limit,
            )
            if line:
                kept.write(line + "\n")
                kept.flush()
            rows.append([name, outcome, round(seconds)])
            print(f"{name}: {outcome}, {seconds:.0f} s", flush=True)
    print()
    table(["benchmark", "outcome", "seconds"], rows)
    return int(any(outcome != "done" for _, outcome, _ in rows))


def run(command: list[str], page: Path, limit: float) -> tuple[str, float, str]:
    """Run one; return how it ended, its seconds, and its line of JSON (empty if it has none)."""
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as late:
        page.write_text(f"    {' '.join(command[1:])}\n\nnot finished within {limit:g} s\n")
        return f"not finished within {late.timeout:g} s", limit, ""
    seconds = time.perf_counter() - started
    tables, lines = sorted_out(done.stdout)
    last = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    text = "\n".join([f"    {' '.join(command[1:])}", "", *tables, *last])
    page.write_text(text + "\n", encoding="utf-8")
    ended = "done" if done.returncode == 0 else f"failed ({' '.join(last) or done.returncode})"
    return ended, seconds, lines[-1] if lines else ""


def sorted_out(printed: str) -> tuple[list[str], list[str]]:
    """Return the lines for people, and the lines of JSON."""
    tables: list[str] = []
    found: list[str] = []
    for line in printed.splitlines():
        try:
            is_result = isinstance(json.loads(line), dict)
        except ValueError:
            is_result = False
        (found if is_result else tables).append(line)
    return tables, found


if __name__ == "__main__":
    sys.exit(main())
