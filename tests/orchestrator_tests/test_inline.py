"""The inline executor on real studies, end to end in one process."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from orchestrator.errors import Interrupted, ResourceError
from orchestrator.executor.inline import run_inline
from orchestrator.plan.jobs import Site
from orchestrator.spec.model import Prune, Study
from orchestrator.terminal import Interrupts
from tests.orchestrator_tests.simulation import Desk
from tests.orchestrator_tests.small_studies import (
    BADNETS,
    BLENDED,
    MEDIAN,
    WILCOXON,
    choice,
    small_study,
)
from ulrl.attacks import ATTACKS, Attack, FixedAttack, Images, register

SETTINGS: dict[str, tuple[Any, ...]] = {
    "unlearn_threshold": (0.2, 0.5),
    "z_threshold": (1.0,),
    "reinit_ratio": (0.5, 1.0),
}


def study_of(path: Path, **other: Any) -> Study:
    return small_study(**{"store": str(path / "store"), "settings": SETTINGS, **other})


def run(study: Study, path: Path, interrupts: Interrupts | None = None) -> Desk:
    """Run a study inline, and return the desk at its end."""
    desk = Desk(study, path)
    site = Site(store=study.store, study=desk.folder.identity())
    desk.scheduler.open()
    run_inline(desk.scheduler, site, interrupts or Interrupts())
    return desk


def table(desk: Desk) -> list[dict[str, Any]]:
    """Return the rows, but for how long they took."""
    return [{name: v for name, v in row.items() if name != "seconds"} for row in desk.rows()]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    path = tmp_path_factory.mktemp("done")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return run(study_of(path), path)


def test_a_study_runs_to_its_end(done: Desk) -> None:
    assert done.statuses() == ["done"] * 8
    assert done.scheduler.complete
    assert done.scheduler.errors == {}
    for row in done.rows():
        assert all(0 <= row[f"{metric}_after_report"] <= 1 for metric in ("acc", "asr", "ra"))
        assert row["seconds"] > 0


def test_nothing_that_ran_before_changes_a_row(done: Desk, tmp_path: Path) -> None:
    """Neither torch's own generator nor another study."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(999)
        other = small_study(
            store=str(tmp_path / "other"), attacks=[choice(BLENDED)], grid={"seeds": (5,)}
        )
        run(other, tmp_path / "other")
        torch.rand(17)
        again = run(study_of(tmp_path), tmp_path)
    assert table(again) == table(done)
    assert [key[:2] for key in again.listed()] == [key[:2] for key in done.listed()]


def test_pruning_leaves_the_rows_of_what_is_done_as_they_are(done: Desk, tmp_path: Path) -> None:
    prune = Prune(setting=WILCOXON, curve=MEDIAN)
    pruned = run(study_of(tmp_path, prune=prune), tmp_path)
    for row, whole in zip(table(pruned), table(done), strict=True):
        assert row["status"] in {"done", "pruned"}
        if row["status"] == "done":
            assert row == whole


def test_an_interrupted_study_goes_on(done: Desk, tmp_path: Path) -> None:
    study = study_of(tmp_path)
    for checks in (3, 12):
        with pytest.raises(Interrupted):
            run(study, tmp_path, _After(checks))
    resumed = run(study, tmp_path)
    assert table(resumed) == table(done)
    assert set(resumed.listed().values()) == {1}
    assert {computed for _, _, computed in resumed.listed()} == {"True"}


class _After(Interrupts):
    """A Ctrl-C that comes after so many checks."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self._left = checks

    def check(self) -> None:
        self._left -= 1
        if self._left < 0:
            self.signum = signal.SIGINT
        super().check()


# An attack that cannot be stamped.


@pytest.fixture
def broken() -> Iterator[Attack]:
    """Return an attack that a user wrote and that fails; it is known for one test only."""

    @register("broken")
    @dataclass(frozen=True, kw_only=True)
    class Broken(FixedAttack):
        def stamp(self, images: Images, generator: Generator) -> Images:
            del images, generator
            raise ValueError("no trigger\nfor these images")

    yield Broken()
    del ATTACKS["broken"]


def test_an_attack_that_fails_fails_its_rows_only(
    done: Desk, broken: Attack, tmp_path: Path
) -> None:
    study = study_of(tmp_path, attacks=[choice(BADNETS), choice(broken), choice(BLENDED)])
    desk = run(study, tmp_path)
    rows = table(desk)
    failed = [row for row in rows if row["attack"] == "broken"]
    assert len(failed) == 4
    for row in failed:
        assert row["status"] == "failed"
        assert row["error"] == "victim: ValueError: no trigger for these images"
        assert row["victim_ok"] is None
        assert row["der_report"] is None
    assert [row for row in rows if row["attack"] != "broken"] == table(done)
    ((name, result),) = desk.scheduler.errors.items()
    assert name == "victim-0001"
    assert result.trace.startswith("Traceback (most recent call last):")
    assert "in stamp\n" in result.trace


def test_a_failure_is_tried_again(
    done: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.pipeline.ulrl_chain.relearn", None)
        desk = run(study_of(tmp_path), tmp_path)
    assert desk.statuses() == ["failed"] * 8
    assert {row["error"] for row in desk.rows()} == {
        "TypeError: 'NoneType' object is not callable",
    }
    assert table(run(study_of(tmp_path), tmp_path)) == table(done)


def test_a_store_that_becomes_full_ends_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = replace(study_of(tmp_path), name="full")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.store.store.write_bytes", full)
        with pytest.raises(ResourceError, match="cannot be written to"):
            run(study, tmp_path)
