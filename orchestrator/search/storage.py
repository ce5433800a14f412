"""Optuna's record of a study: a journal at the end, or a storage that follows the run."""

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

MARK = "ulrl_trial"  # which of ours a trial of a storage is
LONGEST_NAME = 500  # characters of a study's name that databases take


class StoredStudy(Protocol):
    """Whoever keeps an Optuna study in memory."""

    name: str

    @property
    def study(self) -> optuna.Study: ...

    @property
    def trials(self) -> list[FrozenTrial]: ...


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """An Optuna study as it stands; its trials are never changed, only replaced.

    Attributes:
        live: Whether unfinished trials are worth showing.
    """

    name: str
    direction: StudyDirection
    trials: Sequence[FrozenTrial]
    live: bool = True


def snapshot(kept: StoredStudy, prefix: str = "", *, live: bool = True) -> Snapshot:
    """Return what a judge or a sampler has so far; cheap enough for every few seconds."""
    name = f"{prefix}{kept.name}"[:LONGEST_NAME]
    return Snapshot(name=name, direction=kept.study.direction, trials=kept.trials, live=live)


def save_studies(path: Path, kept: Sequence[StoredStudy]) -> None:
    """Write studies as Optuna's journal, for its dashboard and for scripts.

    The file is made aside and renamed: a reader sees one state or the next. Without
    studies there is none, nor that of a former run, in which somebody pruned.
    """
    if not kept:
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f".{path.name}.tmp")
    aside.unlink(missing_ok=True)
    storage = JournalStorage(JournalFileBackend(str(aside)))
    for one in kept:
        shot = snapshot(one)
        study = storage.create_new_study([shot.direction], shot.name)
        for trial in shot.trials:
            storage.create_new_trial(study, template_trial=trial)
    aside.replace(path)
    path.with_name(f"{aside.name}.lock").unlink(missing_ok=True)


def open_storage(place: str) -> BaseStorage:
    """Return Optuna's storage at a database's address, or in a journal file.

    A journal whose last line was torn by a kill or a full disk is readable again afterwards.
    """
    if "://" in place:
        return RDBStorage(place)
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileSymlinkLock(place)
    if path.exists() and _is_torn(path):
        lock.acquire()
        try:
            if _is_torn(path):
                content = path.read_bytes()
                os.truncate(path, content.rfind(b"\n") + 1)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(place, lock_obj=lock))


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return False
        file.seek(end - 1)
        return file.read() != b"\n"


class Writer:
    """Brings the studies of a storage up to date; each write is the difference.

    Attributes:
        storage: Where they are; several studies and other people's may be there too.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self.storage = storage
        self._known: dict[str, dict[int, FrozenTrial]] = {}
        self._ids: dict[str, int] = {}

    def write(self, shot: Snapshot, *, final: bool) -> None:
        """Bring one study up to date.

        Args:
            shot: As it should be.
            final: Whether nothing follows. Until then a storage that an earlier run left
                further ahead is left so, since this run is most likely to come there too.
        """
        known = self._open(shot)
        if any(self._contradicts(known[n], shot, n, final=final) for n in known):
            self.storage.delete_study(self._ids.pop(shot.name))
            del self._known[shot.name]
            known = self._open(shot)
        for number, trial in enumerate(shot.trials):
            if number in known:
                self._follow(known, number, trial)
            elif shot.live or trial.state.is_finished():
                self._enter(shot.name, number, trial)

    def _open(self, shot: Snapshot) -> dict[int, FrozenTrial]:
        if shot.name not in self._known:
            try:
                study = self.storage.get_study_id_from_name(shot.name)
            except KeyError:
                study = self.storage.create_new_study([shot.direction], shot.name)
            self._ids[shot.name] = study
            trials = self.storage.get_all_trials(study)
            self._known[shot.name] = {
                trial.user_attrs[MARK]: trial for trial in trials if MARK in trial.user_attrs
            }
        return self._known[shot.name]

    def _contradicts(self, there: FrozenTrial, shot: Snapshot, number: int, *, final: bool) -> bool:
        """Whether what the storage has of a trial is not, and will not become, ours."""
        if number >= len(shot.trials):
            return final
        ours = shot.trials[number]
        if _plain(there.params) != _plain(ours.params):
            return True
        if there.state.is_finished() and not ours.state.is_finished():
            return final
        shared = there.intermediate_values.keys() & ours.intermediate_values.keys()
        if there.state.is_finished():
            shared = there.intermediate_values.keys() | ours.intermediate_values.keys()
            if there.state is not ours.state or not _alike(there.values, ours.values):
                return True
            if there.user_attrs != _marked(ours, number):
                return True
        pairs = [
            (there.intermediate_values.get(step), ours.intermediate_values.get(step))
            for step in shared
        ]
        return not all(_same(*pair) for pair in pairs)

    def _enter(self, name: str, number: int, trial: FrozenTrial) -> None:
        template = copy.copy(trial)
        template.user_attrs = _marked(trial, number)
        template.system_attrs = {}  # the sampler's own; not for strangers to read back
        place = self.storage.create_new_trial(self._ids[name], template_trial=template)
        self._known[name][number] = self.storage.get_trial(place)

    def _follow(self, known: dict[int, FrozenTrial], number: int, trial: FrozenTrial) -> None:
        there = known[number]
        if there.state.is_finished():
            return
        for step, value in trial.intermediate_values.items():
            if step not in there.intermediate_values:
                self.storage.set_trial_intermediate_value(there._trial_id, step, value)  # noqa: SLF001
        for attribute, value in _marked(trial, number).items():
            if attribute not in there.user_attrs or there.user_attrs[attribute] != value:
                self.storage.set_trial_user_attr(there._trial_id, attribute, value)  # noqa: SLF001
        if trial.state.is_finished():
            values = trial.values if trial.state is not TrialState.FAIL else None
            self.storage.set_trial_state_values(there._trial_id, trial.state, values)  # noqa: SLF001
        known[number] = self.storage.get_trial(there._trial_id)  # noqa: SLF001


def _marked(trial: FrozenTrial, number: int) -> dict[str, Any]:
    """Return a trial's user attributes as a storage has them."""
    return {**_plain(trial.user_attrs), MARK: number}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as a database hands them back."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(values)))
    return plain


def _alike(a: Sequence[float] | None, b: Sequence[float] | None) -> bool:
    if a is None or b is None:
        return a is b
    return len(a) == len(b) and all(map(_same, a, b))


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (a != a and b != b)  # noqa: PLR0124 - NaN
