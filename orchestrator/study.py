"""The command: ``python -m orchestrator.study GRID.yaml``."""

import argparse
import errno
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import shtab
from rich.console import Console

from orchestrator.address import Address, redacted
from orchestrator.cli.examples import examples, write_example
from orchestrator.errors import BudgetExhausted, Interrupted, ResourceError, SpecError, StudyError
from orchestrator.files import given_path
from orchestrator.terminal import Interrupts, Parser, as_process, failure_of, program

if TYPE_CHECKING:
    from orchestrator.spec.model import Study


_FILTER = "'COLUMN=VALUE and ...'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = _parser().parse_args(argv)
    console = Console(highlight=False)
    errors = Console(stderr=True, highlight=False)
    interrupts = Interrupts()
    try:
        with interrupts.watched():
            return _command(arguments, console, interrupts)
    except StudyError as stop:
        code, text = stop.exit_code, str(stop) if isinstance(stop, SpecError) else f"error: {stop}"
        if isinstance(stop, Interrupted | BudgetExhausted):
            words = map(redacted, _without_redo(sys.argv[1:] if argv is None else argv))
            first, *others = _parser().prog.split()
            again = shlex.join([program(first), *others, *words])
            text = f"stopped by {stop}; nothing finished is lost. To go on: {again}"
    except OSError as error:
        code, text = ResourceError.exit_code, f"error: {redacted(str(error))}"
    errors.print(text, markup=False, soft_wrap=True)
    return code


def _command(arguments: argparse.Namespace, console: Console, interrupts: Interrupts) -> int:
    if arguments.example is not None:
        console.print(write_example(arguments.example), soft_wrap=True)
        return 0
    # Imported here so that --help and a refused file do not wait for what they do not need.
    from orchestrator.spec.yaml_tree import read_tree

    root = read_tree(str(arguments.grid), arguments.set)  # no YAML is refused without torch
    from orchestrator.spec.load import load_study
    from orchestrator.store.study_folder import study_path

    study = load_study(str(arguments.grid), arguments.set, root)
    redo = arguments.redo or arguments.redo_victims
    if arguments.plan and (redo or arguments.stop):
        does = "--redo deletes results" if redo else "--stop stops trials"
        raise SpecError([f"command line: {does} and --plan changes nothing; give one of them"])
    if redo and arguments.stop:
        text = "--redo is for a study that does not run, --stop for one that does; give one of them"
        raise SpecError([f"command line: {text}"])
    out = study_path(study.name, arguments.out)
    if arguments.stop:
        console.print(_stop(study, out, arguments.stop), markup=False, soft_wrap=True)
        return 0
    if arguments.plan:
        from orchestrator.cli.plan import StudyPlan

        StudyPlan(study, out, inline=arguments.inline).show(console)
        failure = failure_of(console.file)
        if failure is not None and failure.errno != errno.EPIPE:  # its reader may have seen enough
            raise ResourceError(f"the plan cannot be written: {failure.strerror}")
        return 0
    from orchestrator.cli.redo import Redo
    from orchestrator.cli.run import run_study

    return run_study(
        study,
        out,
        console,
        interrupts,
        address=None if arguments.address is None else Address(arguments.address),
        inline=arguments.inline,
        verbose=arguments.verbose,
        redo=Redo(trials=arguments.redo, victims=arguments.redo_victims),
    )


def _stop(study: "Study", out: Path, filters: Sequence[str]) -> str:
    from orchestrator.cli.redo import stop_trials
    from orchestrator.store.study_folder import StudyFolder

    return stop_trials(study, StudyFolder(out), filters)


def _parser() -> Parser:
    description = "Run, resume or plan a study of ULRL. The same command again resumes."
    parser = Parser("orchestrator.study", "ulrl-study", description)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "grid", metavar="GRID.yaml", nargs="?", type=given_path, help="the study file"
    ).complete = shtab.FILE  # type: ignore[attr-defined]
    text = f"write a study file to start from into this folder, and stop: {', '.join(examples())}"
    what.add_argument("--example", metavar="NAME", help=text)
    parser.add_argument("--plan", action="store_true", help="show what would be done, and stop")
    parser.add_argument("--address", metavar="ADDR", help="an existing Ray cluster to run on")
    parser.add_argument(
        "--out", metavar="DIR", type=given_path, help="the study folder (default: runs/NAME)"
    )
    text = "override a value of the file by its dotted path; may be repeated"
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help=text)
    _add_redo(parser)
    text = "stop these trials of the study, which runs in another terminal; may be repeated"
    parser.add_argument("--stop", metavar=_FILTER, action="append", default=[], help=text)
    parser.add_argument(
        "--inline", action="store_true", help="no Ray, one process; the same results"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show libraries' messages")
    return parser


def _add_redo(parser: argparse.ArgumentParser) -> None:
    text = "forget the results of these trials first, to compute them again; may be repeated"
    parser.add_argument("--redo", metavar=_FILTER, action="append", default=[], help=text)
    text = "forget these victims first, and all that rests on them; may be repeated"
    parser.add_argument("--redo-victims", metavar=_FILTER, action="append", default=[], help=text)


def _without_redo(words: Sequence[str]) -> list[str]:
    """Return a command line that goes on: what it had forgotten is not forgotten again."""
    parser = argparse.ArgumentParser(add_help=False)
    _add_redo(parser)
    return parser.parse_known_args(words)[1]


def command() -> int:
    """Be the command `ulrl-study`."""
    return as_process(main)


if __name__ == "__main__":
    sys.exit(command())
