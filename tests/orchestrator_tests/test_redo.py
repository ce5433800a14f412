"""Results that are computed again: what is forgotten, what stays, what is refused."""

import io
from collections import Counter
from pathlib import Path
from random import Random
from unittest.mock import Mock

import pytest
from rich.console import Console

from orchestrator.cli.redo import Redo
from orchestrator.cli.run import run_study
from orchestrator.errors import ResourceError, SpecError
from orchestrator.spec.load import load_study
from orchestrator.store.store import Entry, Store
from orchestrator.study import _without_redo, main
from orchestrator.terminal import Interrupts
from tests.orchestrator_tests.pruned_studies import study_of, with_status
from tests.orchestrator_tests.simulation import Desk, Workers

GRID = """\
name: tiny
grid:
  attack: badnets
  dataset: digits
  architecture: {name: preact_resnet18, width: 1}
  clean_ratio: 0.05
  unlearn_epochs: 1
  relearn_epochs: 1
  relearn_lr: [0.01, 0.5]
victim: {epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
mlflow: {log_models: none}
"""


def done(path: Path, prune: str = "nobody") -> Desk:
    """Return the desk of a study of 6 seeds × 12 settings once it is complete."""
    desk = Desk(study_of(prune, str(path / "store")), path)
    Workers(Random(1), 2).run(desk)
    desk.results.write(path, {})
    return desk


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Return the desk of a complete study, of which nothing is to be deleted."""
    return done(tmp_path_factory.mktemp("whole"))


def forget(desk: Desk, redo: Redo) -> tuple[str, Counter[str]]:
    """Return what is said, and how many results of each stage are made when it goes on."""
    text = redo.forget(desk.plan, desk.folder, Desk(desk.plan.study, desk.folder.path).findings)
    again = Desk(desk.plan.study, desk.folder.path)
    crew = Workers(Random(2), 2)
    crew.run(again)
    assert again.rows() == desk.rows()
    assert set(crew.executed.values()) <= {1}
    return text, Counter(stage for stage, _ in crew.executed)


@pytest.mark.parametrize(
    ("where", "keys", "shared"),
    [
        # 0.5 and 0.55 of eight weights are four; the rows of an odd seed depend on the threshold.
        ("seed=1 and alpha=0.3 and reinit_ratio=0.50", 2, 2),
        ("seed=2 AND alpha = 0.3 and reinit_ratio=0.5 and status=done", 1, 2),
        ("seed=2 and alpha=0.3", 1, 0),
    ],
)
def test_the_last_stages_of_the_chosen_trials_are_computed_again(
    where: str, keys: int, shared: int, tmp_path: Path
) -> None:
    desk = done(tmp_path)
    trials = 4 if shared == 0 else 2
    text, made = forget(desk, Redo(trials=[where]))
    assert made == {"relearn": keys, "evaluate": keys}
    also = f"{shared} other trials of this study and " if shared else ""
    assert text == (
        f"forgot {3 * keys} results of {trials} trials; {also}other studies that share them get "
        f"the new ones"
    )


def test_filters_add_up(tmp_path: Path) -> None:
    desk = done(tmp_path)
    both = Redo(trials=["seed=1 and alpha=0.3", "seed=3 and alpha=0.3"])
    _, made = forget(desk, both)
    assert made == {"relearn": 4, "evaluate": 4}


def test_a_victim_is_forgotten_with_all_that_rests_on_it(tmp_path: Path) -> None:
    desk = done(tmp_path)
    text, made = forget(desk, Redo(victims=["seed=1"]))
    # Two thresholds in one ascent; each with three values of alpha, and one number of weights.
    assert made == {
        "train_victim": 1,
        "unlearn": 1,
        "score_neurons": 2,
        "relearn": 6,
        "evaluate": 7,
    }
    assert text.startswith("forgot 23 results of 1 victim with all that rests on them; other")


def test_the_curve_of_a_cut_trial_goes_too(tmp_path: Path) -> None:
    desk = done(tmp_path, "curves")
    cut = [t for t in with_status(desk, "pruned") if t.scenario.seed == 1]
    keys = {desk.scheduler.scores[t.number].relearn_key for t in cut} & desk.folder.cuts().keys()
    assert keys
    text = Redo(trials=["seed=1 and status=pruned"]).forget(desk.plan, desk.folder, desk.findings)
    assert f"{len(keys)} cut curve" in text
    assert not keys & desk.folder.cuts().keys()
    again = Desk(desk.plan.study, tmp_path)
    Workers(Random(5), 1).run(again)
    assert again.rows() == desk.rows()


def test_a_second_time_there_is_nothing_to_forget(tmp_path: Path) -> None:
    desk, redo = done(tmp_path), Redo(trials=["seed=0"])
    redo.forget(desk.plan, desk.folder, desk.findings)
    text = redo.forget(desk.plan, desk.folder, desk.findings)
    assert text == "nothing is stored of 12 trials to be forgotten"


@pytest.mark.parametrize(
    ("redo", "message"),
    [
        (Redo(trials=["sed=1"]), "--redo: 'sed' names no trial; did you mean 'seed'?"),
        (Redo(trials=["attack=badnet"]), "no trial has attack=badnet; did you mean 'badnets'?"),
        (Redo(trials=["seed=7"]), "--redo: no trial has seed=7; there are 0, 1, 2, 3, 4, 5"),
        (Redo(trials=["seed=1 and seed=2"]), "--redo: no trial has seed=1 and seed=2"),
        (Redo(trials=["status=faild"]), "--redo: no trial has status=faild; there are done"),
        (Redo(trials=["seed"]), "--redo: 'seed' is no condition; write COLUMN=VALUE, several"),
        (Redo(trials=["seed=1", "x=1"]), "--redo: 'x' names no trial; there are attack, "),
        (Redo(victims=["alpha=0.3"]), "--redo-victims: 'alpha' names no victim; there are att"),
        (Redo(trials=["seed=1"], victims=[""]), "--redo-victims: '' is no condition; write"),
    ],
)
def test_a_wrong_filter_deletes_nothing(redo: Redo, message: str, whole: Desk) -> None:
    place = whole.folder.path / "store"
    before = sorted(place.rglob("*"))
    with pytest.raises(SpecError) as stop:
        redo.forget(whole.plan, whole.folder, whole.findings)
    (line,) = stop.value.lines
    assert line.startswith("command line: --redo")
    assert message in line
    assert sorted(place.rglob("*")) == before


def test_a_bare_name_is_every_variant(whole: Desk) -> None:
    for where in ("dataset=digits", "architecture=preact_resnet18", "attack=BadNets"):
        trials, _ = Redo(trials=[where]).chosen(whole.plan, whole.folder)
        assert trials == whole.plan.rows, where


def test_the_command_computes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(GRID)
    first = said()
    before = Path("runs/tiny/results.csv").read_bytes().splitlines()
    assert "run now: 1 victim, 1 ascent, 2 relearns" in first
    second = said(Redo(trials=["relearn_lr=0.5"]))
    assert "forgot 2 results of 1 trial; other studies that share" in second
    assert "run now: 1 relearn" in second
    third = said(Redo(victims=["attack=badnets"]))
    assert "run now: 1 victim, 1 ascent, 2 relearns" in third
    after = Path("runs/tiny/results.csv").read_bytes().splitlines()
    assert [len(line.split(b",")) for line in after] == [len(line.split(b",")) for line in before]
    assert b"done" in after[1]
    assert main(["grid.yaml", "--inline", "--redo", "relearn_lr=2"]) == 2
    assert main(["grid.yaml", "--plan", "--redo", "relearn_lr=0.5"]) == 2


def said(redo: Redo | None = None) -> str:
    """Run the study and return what it prints."""
    console = Console(file=io.StringIO(), width=200)
    code = run_study(
        load_study("grid.yaml"),
        Path("runs/tiny").absolute(),
        console,
        Interrupts(),
        address=None,
        inline=True,
        verbose=True,
        redo=redo,
    )
    assert code == 0
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_to_go_on_is_not_to_forget_again() -> None:
    words = ["grid.yaml", "--redo", "seed=1 and alpha=0.3", "--set", "a=b", "--redo-victims=seed=2"]
    assert _without_redo([*words, "-v", "--inline"]) == [
        *("grid.yaml", "--set", "a=b", "-v", "--inline")
    ]


def test_what_cannot_be_removed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    key = "ab" * 32
    assert not store.remove("relearn", key)
    store.write("relearn", key, Entry(values={}))
    with monkeypatch.context() as patch:
        patch.setattr(store._files, "rm_file", Mock(side_effect=PermissionError("read-only")))
        with pytest.raises(ResourceError, match=r"cannot be written to \(read-only\)"):
            store.remove("relearn", key)
    assert store.remove("relearn", key)
    assert store.read("relearn", key) is None
