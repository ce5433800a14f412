"""A study mirrored to a tracker that only listens."""

from collections.abc import Collection, Mapping
from pathlib import Path
from random import Random
from typing import Any

from orchestrator.address import Address
from orchestrator.plan.columns import Outcome
from orchestrator.scheduler.retention import ModelRetention
from orchestrator.scheduler.trigger_pictures import TriggerPictures
from orchestrator.spec.model import LogModels, Study, Tracking
from orchestrator.tracking.callback import MlflowCallback
from orchestrator.tracking.records import Record
from orchestrator.tracking.run_records import RunRecords
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice, small_study


class Listener:
    """A tracker that keeps every record, and the last of each key."""

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        self.heard: list[Record] = []
        self.last: dict[str, Record] = {}
        self.present: set[str] = set()  # keys of what is in the grid, in the end
        self._known = dict(known or {})

    def record(self, record: Record) -> None:
        above = {None, *self.last, *self._known}
        assert record.parent in above, "a child before its parent"
        self.heard.append(record)
        self.last[record.key] = record

    def retire(self, present: Collection[str]) -> None:
        self.present = set(present)

    def run_ids(self) -> Mapping[str, str]:
        return self._known

    def of(self, kind: str) -> list[Record]:
        return [record for record in self.last.values() if record.tags["kind"] == kind]


def study_of(path: Path, policy: LogModels = LogModels.BEST, **other: Any) -> Study:
    return small_study(
        **{
            "store": f"memory://{path}",
            "attacks": [choice(BADNETS), choice(BLENDED)],
            "settings": {"alpha": (0.5, 0.7), "reinit_ratio": (0.5, 0.55, 1.0)},
            "grid": {"seeds": (0, 1)},
            "mlflow": Tracking(uri=Address(""), log_models=policy),
            **other,
        }
    )


def mirrored(
    study: Study,
    path: Path,
    listener: Listener | None = None,
    *,
    finish: bool = True,
    workers: Workers | None = None,
    steps: int = 10**9,
    found: Mapping[tuple[str, ...], Outcome] | None = None,
    **crew: Any,
) -> tuple[Desk, Listener]:
    """Run a study under the eyes of a mirror, to its end."""
    desk, heard = Desk(study, path), listener or Listener()
    pictures = TriggerPictures(desk.plan, path)
    retention = ModelRetention(desk.scheduler, desk.results, desk.store)
    runs = RunRecords(desk.scheduler, desk.results, desk.findings, desk.store, pictures)
    mirror = MlflowCallback(heard, desk.scheduler, runs, retention)  # type: ignore[arg-type]
    desk.watch(pictures, retention, mirror)
    (workers or Workers(Random(1), 2, **crew)).run(desk, steps)
    if finish:
        retention.finish()
        mirror.finish()
    if found is not None:
        mirror.outcomes(found)
    return desk, heard


def weights_in(desk: Desk) -> set[str]:
    """Return the keys of repaired models that the store has."""
    keys = {finding.relearn_key for finding in desk.scheduler.scores.values()}
    return {key for key in keys if desk.store.peek("repaired", key) is not None}


def trial_record(listener: Listener, desk: Desk, number: int) -> Record:
    return listener.last[desk.plan.trials[number].key]
