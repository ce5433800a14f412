"""The study folder: who holds it, what was executed, what was cut."""

import csv
import json
import os
import socket
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from filelock import FileLock, Timeout

from orchestrator.errors import ResourceError
from orchestrator.files import ASIDE, obstacle, remove_left, whole_lines, write_text
from orchestrator.plan.jobs import StageRun

RUNS = "runs"  # where study folders are if nothing else is said

Cuts: TypeAlias = dict[str, tuple[tuple[float | None, ...], ...]]

STAGE_COLUMNS = ("stage", "key", "scenario", "seconds", "computed")


def study_path(name: str, out: str | Path | None) -> Path:
    """Return where a study's folder is: at `out`, or by the study's name."""
    return (Path(RUNS) / name if out is None else Path(out)).absolute()


class StudyFolder:
    """Files of one study, and the record of its work.

    Attributes:
        path: The folder itself.
        logs: The folder of logs in it.
        executed: How often each stage was executed since this start.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.logs = path, path / "logs"
        self._record_file, self._settings_file = path / "stages.csv", path / "settings.jsonl"
        self._cuts_file, self._holder_file = self.logs / "cuts.jsonl", self.logs / "driver.json"
        self._skips_file = self.logs / "skips.jsonl"
        self._stops_file = self.logs / "stops.jsonl"
        self._stops_read = 0  # lines of it
        self.executed: Counter[str] = Counter()
        self._listed: set[tuple[str, str]] = set()
        self._used: dict[str, set[str]] = defaultdict(set)

    def check(self) -> None:
        """Raise ``ResourceError`` where this can be no study folder; nothing is written."""
        if reason := obstacle(self.path) or obstacle(self.logs):
            raise self._unwritable(reason)
        self._listed_lines(cut=False)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder against other drivers, until left or the process ends.

        Raises:
            ResourceError: Another driver holds it, or the folder cannot be written to.
        """
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.logs / "driver.lock")
            lock.acquire(blocking=False)
        except Timeout as error:
            raise ResourceError(f"{self.path} is held by {self._holder()}") from error
        except OSError as error:
            raise self._unwritable(error) from error
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        try:
            self._stops_file.unlink(
                missing_ok=True
            )  # whatever it asks for, it asked a former start
            self._holder_file.write_text(json.dumps(holder))
            remove_left(self.path.rglob(ASIDE))
            yield
        finally:
            self._holder_file.unlink(missing_ok=True)
            lock.release()

    def holder(self) -> str:
        """Return who holds the folder, or nothing if no driver does."""
        if not self._holder_file.exists():
            return ""
        lock = FileLock(self.logs / "driver.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return self._holder()
        lock.release()
        return ""  # it was killed

    def ask_to_stop(self, trials: Iterable[str]) -> str:
        """Ask the driver to stop trials, by their keys; return a name for its answer."""
        name = uuid.uuid4().hex
        self._write_stop({"ask": name, "trials": list(trials)})
        return name

    def stops_asked(self) -> list[tuple[str, frozenset[str]]]:
        """Return what was asked since the last call: a name for the answer, and trials' keys."""
        lines = self._stop_lines()
        new, self._stops_read = lines[self._stops_read :], len(lines)
        return [(line["ask"], frozenset(line["trials"])) for line in new if "ask" in line]

    def answer_stop(self, name: str, stopped: int) -> None:
        """Answer how many trials were stopped."""
        self._write_stop({"answer": name, "stopped": stopped})

    def stop_answered(self, name: str) -> int | None:
        """Return how many trials the driver stopped; None as long as it has not answered."""
        answers = (line for line in self._stop_lines() if line.get("answer") == name)
        return next((int(line["stopped"]) for line in answers), None)

    def _write_stop(self, line: Mapping[str, Any]) -> None:
        with self._stops_file.open("a") as file:  # both sides append, each a whole line
            file.write(json.dumps(line) + "\n")

    def _stop_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in whole_lines(self._stops_file, cut=False)]

    def identity(self) -> str:
        """Return the study's identifier, made up when the folder is new."""
        file = self.logs / "study-id"
        if not file.exists():
            write_text(file, uuid.uuid4().hex)
        return file.read_text()

    def open_record(self) -> None:
        """Read the list of executed stages; a line torn by a kill is cut off."""
        lines = self._listed_lines(cut=True)
        if not lines:
            write_text(self._record_file, ",".join(STAGE_COLUMNS) + "\n")
        rows = csv.reader(lines[1:])
        self._listed = {(row[0], row[1]) for row in rows if len(row) == len(STAGE_COLUMNS)}

    def keys(self) -> set[str]:
        """Return the keys of all results that the study rests on, or did.

        Raises:
            ResourceError: The list of executed stages is another program's.
        """
        rows = csv.reader(self._listed_lines(cut=False)[1:])
        return {row[1] for row in rows if len(row) == len(STAGE_COLUMNS)}

    def record(self, runs: Iterable[StageRun]) -> None:
        """List stages that were executed just now, at once on disk.

        Each execution is a line, so that the file would show work done twice.
        """
        runs = tuple(runs)
        self.executed.update(run.stage for run in runs)
        self._append(runs, [(run, True) for run in runs])

    def account(self, runs: Iterable[StageRun], study: str) -> None:
        """List stages that results rest on and that are not listed yet.

        `study` executed some of them and was killed before it could say so; the others
        were in the store.
        """
        runs = tuple(runs)
        new = [run for run in runs if (run.stage, run.key) not in self._listed]
        self._append(runs, [(run, run.study == study) for run in new])

    def used(self, stage: str) -> set[str]:
        """Return the keys of a stage that were executed or rested on since this start."""
        return set(self._used[stage])

    def _append(self, used: Iterable[StageRun], lines: list[tuple[StageRun, bool]]) -> None:
        for run in used:
            self._used[run.stage].add(run.key)
        if not lines:
            return
        with self._record_file.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            for run, computed in lines:
                self._listed.add((run.stage, run.key))
                seconds = f"{run.seconds:.4f}"
                writer.writerow((run.stage, run.key, run.scenario, seconds, computed))

    def cuts(self) -> Cuts:
        """Return the curves of relearnings that were cut, by their key: the longest each."""
        found: Cuts = {}
        for line in whole_lines(self._cuts_file):
            try:
                cut = json.loads(line)
                curve = tuple(tuple(point) for point in cut["curve"])
            except (ValueError, KeyError, TypeError):
                continue  # the trial is run again
            if len(curve) > len(found.get(cut["key"], ())):
                found[cut["key"]] = curve
        return found

    def record_cut(self, key: str, curve: tuple[tuple[float | None, ...], ...]) -> None:
        """Keep the curve of a relearning that was cut: it is what the decision rests on."""
        with self._cuts_file.open("a") as file:
            file.write(json.dumps({"key": key, "curve": curve}) + "\n")

    def drop_cuts(self, keys: Collection[str]) -> int:
        """Forget the curves of relearnings that were cut, by their keys; return how many."""
        cuts = self.cuts()
        left = {key: curve for key, curve in cuts.items() if key not in keys}
        if len(left) < len(cuts):
            lines = [json.dumps({"key": key, "curve": curve}) for key, curve in left.items()]
            write_text(self._cuts_file, "".join(f"{line}\n" for line in lines))
        return len(cuts) - len(left)

    def skips(self) -> dict[str, str]:
        """Return the reasons of stages whose method does not apply, by the stage's key."""
        found: dict[str, str] = {}
        for line in whole_lines(self._skips_file):
            with suppress(ValueError, KeyError, TypeError):  # the trial is run again
                skip = json.loads(line)
                found[skip["key"]] = skip["reason"]
        return found

    def record_skip(self, key: str, reason: str) -> None:
        """Keep that a stage's method does not apply: a resume does not try it again."""
        with self._skips_file.open("a") as file:
            file.write(json.dumps({"key": key, "reason": reason}) + "\n")

    def drop_skips(self, keys: Collection[str]) -> int:
        """Forget that stages do not apply, by their keys; return how many."""
        skips = self.skips()
        left = {key: reason for key, reason in skips.items() if key not in keys}
        if len(left) < len(skips):
            lines = [json.dumps({"key": key, "reason": reason}) for key, reason in left.items()]
            write_text(self._skips_file, "".join(f"{line}\n" for line in lines))
        return len(skips) - len(left)

    def settings(self) -> list[object]:
        """Return the settings that were drawn for this study, in that order, as plain values."""
        found = []
        for line in whole_lines(self._settings_file, cut=False):
            with suppress(ValueError):  # another is drawn in its place
                found.append(json.loads(line))
        return found

    def record_setting(self, values: Mapping[str, Any]) -> None:
        """Keep a setting that was drawn, at once on disk: a resume draws no other."""
        whole_lines(self._settings_file)
        with self._settings_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _listed_lines(self, *, cut: bool) -> list[str]:
        lines = whole_lines(self._record_file, cut=cut)
        if lines and lines[0] != ",".join(STAGE_COLUMNS):
            raise ResourceError(
                f"{self._record_file} is not this program's: its first line is {lines[0][:80]!r}"
            )
        return lines

    def _unwritable(self, reason: object) -> ResourceError:
        return ResourceError(
            f"the study folder {self.path} cannot be written to ({reason}); name another with --out"
        )

    def _holder(self) -> str:
        try:
            holder = json.loads(self._holder_file.read_text())
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
            return f"process {holder['pid']} on {holder['host']} since {since}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another driver"
