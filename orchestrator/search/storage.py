"""Optuna's record of a study: a journal at the end, and a storage that others can watch."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from orchestrator.files import aside_of, whole_lines

LONGEST_NAME = 500  # characters of a study's name that databases take


class StoredStudy(Protocol):
    """An Optuna study in memory, with those of its trials that count."""

    name: str

    @property
    def study(self) -> optuna.Study: ...

    @property
    def trials(self) -> list[FrozenTrial]: ...


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """An Optuna study as it stands; its trials are never changed, only replaced."""

    name: str
    direction: StudyDirection
    trials: Sequence[FrozenTrial]


def snapshot(kept: StoredStudy, prefix: str = "") -> Snapshot:
    """Return what a pruner or a sampler has so far; cheap enough for every few seconds."""
    name = f"{prefix}{kept.name}"[:LONGEST_NAME]
    return Snapshot(name=name, direction=kept.study.direction, trials=kept.trials)


def copy_study(shot: Snapshot, storage: BaseStorage) -> None:
    """Copy a study to a storage, in place of one of its name unless that is equal.

    As `optuna.copy_study` does, from a snapshot: the study itself may change at any time.
    """
    with suppress(KeyError):
        study = storage.get_study_id_from_name(shot.name)
        if _content(storage.get_all_trials(study)) == _content(shot.trials):
            return
        storage.delete_study(study)
    study = storage.create_new_study([shot.direction], shot.name)
    for trial in shot.trials:
        storage.create_new_trial(study, template_trial=trial)


def _content(trials: Sequence[FrozenTrial]) -> str:
    """Return what trials say, with NaN equal to itself and sequences as databases hold them."""
    said = [(t.state.name, t.values, t.params, t.intermediate_values, t.user_attrs) for t in trials]
    return json.dumps(said, sort_keys=True)


def save_studies(path: Path, kept: Sequence[StoredStudy]) -> None:
    """Write studies as Optuna's journal, for its dashboard and for scripts.

    The file is made aside and renamed: a reader sees one state or the next. Without studies
    there is none, nor that of a former run, in which somebody pruned.
    """
    if not kept:
        path.unlink(missing_ok=True)
        return
    aside = aside_of(path)
    storage = JournalStorage(JournalFileBackend(str(aside)))
    for one in kept:
        copy_study(snapshot(one), storage)
    aside.replace(path)


def open_storage(place: str) -> BaseStorage:
    """Return Optuna's storage at a database's address, or in a journal file.

    A journal whose last line was torn by a kill or a full disk is readable again afterwards.
    """
    if "://" in place:
        return RDBStorage(place)
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileSymlinkLock(place)
    if path.exists():
        lock.acquire()
        try:
            whole_lines(path)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(place, lock_obj=lock))
