"""Judges against plain Optuna, driven by hand with the same values."""

import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scipy.stats import wilcoxon

from orchestrator.search.pruners import PruningStudy
from orchestrator.search.storage import save_studies
from orchestrator.spec.model import Objective, PrunerChoice

EPOCHS = 6
CURVE_PRUNERS: dict[str, dict[str, Any]] = {
    "median": {"n_startup_trials": 2, "n_warmup_steps": 1},
    "percentile": {"percentile": 40.0, "n_startup_trials": 2},
    "successive_halving": {"min_resource": 1, "reduction_factor": 2},
    "hyperband": {"min_resource": 1, "max_resource": EPOCHS, "reduction_factor": 2},
    "threshold": {"lower": 0.15, "upper": 0.95, "n_warmup_steps": 2},
    "patient": {
        "wrapped": PrunerChoice(pruner="median", arguments={"n_startup_trials": 2}),
        "patience": 1,
        "min_delta": 0.01,
    },
}
BY_HAND = {
    "median": optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1),
    "percentile": optuna.pruners.PercentilePruner(40.0, n_startup_trials=2),
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner(1, 2),
    "hyperband": optuna.pruners.HyperbandPruner(1, EPOCHS, 2),
    "threshold": optuna.pruners.ThresholdPruner(lower=0.15, upper=0.95, n_warmup_steps=2),
}
WILCOXON: dict[str, Any] = {"p_threshold": 0.1, "n_startup_steps": 4}


@pytest.fixture
def curves() -> list[list[float]]:
    source = random.Random(1)
    return [[round(source.random(), 2) for _ in range(EPOCHS)] for _ in range(24)]


def by_hand(name: str, objective: Objective) -> optuna.Study:
    pruner: Any = BY_HAND.get(name)
    if name == "patient":
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            pruner = optuna.pruners.PatientPruner(
                optuna.pruners.MedianPruner(n_startup_trials=2), patience=1, min_delta=0.01
            )
    if name == "wilcoxon":
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            pruner = optuna.pruners.WilcoxonPruner(**WILCOXON)
    direction = optuna.study.StudyDirection(1 if objective is Objective.ASR else 2)
    return optuna.create_study(study_name="judge", direction=direction, pruner=pruner)


def cuts_by_hand(study: optuna.Study, curves: Sequence[Sequence[float]]) -> list[int | None]:
    """Return the epoch after which plain Optuna gives each curve up."""
    found: list[int | None] = []
    for curve in curves:
        trial = study.ask()
        for epoch, value in enumerate(curve, start=1):
            trial.report(value, epoch)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                found.append(epoch)
                break
        else:
            study.tell(trial, curve[-1])
            found.append(None)
    return found


def cuts(
    judge: PruningStudy, curves: Sequence[Sequence[float]], first: int = 0
) -> list[int | None]:
    """Return the epoch after which a judge gives each curve up."""
    found = []
    for number, curve in enumerate(curves, start=first):
        judge.begin(number, {"alpha": 0.1 * number})
        found.append(judge.cut(number, list(curve)))
        judge.finish(number, None if found[-1] is not None else curve[-1])
    return found


def judge_of(name: str, objective: Objective = Objective.DER) -> PruningStudy:
    arguments = WILCOXON if name == "wilcoxon" else CURVE_PRUNERS[name]
    return PruningStudy("judge", PrunerChoice(pruner=name, arguments=arguments), objective)


@pytest.mark.parametrize("objective", [Objective.DER, Objective.ASR])
@pytest.mark.parametrize("name", CURVE_PRUNERS)
def test_a_judge_cuts_where_optuna_does(
    name: str, objective: Objective, curves: list[list[float]]
) -> None:
    wanted = cuts_by_hand(by_hand(name, objective), curves)
    assert cuts(judge_of(name, objective), curves) == wanted
    assert None in wanted
    assert any(wanted)


@pytest.mark.parametrize("name", CURVE_PRUNERS)
def test_a_curve_that_grows_is_cut_where_a_whole_one_is(
    name: str, curves: list[list[float]]
) -> None:
    whole, growing = judge_of(name), judge_of(name)
    for number, curve in enumerate(curves):
        (wanted,) = cuts(whole, [curve], first=number)
        growing.begin(number, {})
        found = [growing.cut(number, curve[:epoch]) for epoch in range(1, EPOCHS + 1)]
        assert found == [wanted if wanted and epoch >= wanted else None for epoch in range(1, 7)]
        assert growing.cut(number, curve) == wanted
        growing.finish(number, None if wanted else curve[-1])


@pytest.mark.parametrize("objective", [Objective.DER, Objective.ASR])
def test_a_judge_abandons_settings_where_optuna_does(objective: Objective) -> None:
    source = random.Random(2)
    study, judge = by_hand("wilcoxon", objective), judge_of("wilcoxon", objective)
    abandoned = 0
    for number in range(12):
        level, values, gone = source.random(), [], False
        judge.begin(number, {})
        trial = study.ask()
        for step in source.sample(range(20), 10):
            values.append(level + 0.2 * source.random())
            trial.report(values[-1], step)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of scenarios that the best one lacks
                wanted = trial.should_prune()
            assert judge.report(number, step, values[-1]) == wanted
            if wanted:
                check_evidence(judge, number, study, trial)
                gone = True
                break
        state = TrialState.PRUNED if gone else TrialState.COMPLETE
        study.tell(trial, None if gone else sum(values) / len(values), state)
        judge.finish(number, None if gone else sum(values) / len(values))
        abandoned += gone
    assert 2 < abandoned < 11


def check_evidence(
    judge: PruningStudy, number: int, study: optuna.Study, trial: optuna.Trial
) -> None:
    own = study.trials[trial.number].intermediate_values
    best = study.best_trial.intermediate_values
    shared = [step for step in own if step in best]
    found = judge.evidence(number)
    sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
    differences = np.array([sign * (own[step] - best[step]) for step in shared])
    test = wilcoxon(differences, alternative="less", zero_method="zsplit")
    assert found.p_value == pytest.approx(test.pvalue, rel=1e-12)
    assert found.p_value is not None
    assert found.p_value < WILCOXON["p_threshold"]
    assert (found.pairs, found.step) == (len(shared), len(own))
    assert found.value == pytest.approx(sum(own[step] for step in shared) / len(shared))
    assert found.reference == pytest.approx(sum(best[step] for step in shared) / len(shared))
    assert found.worse == sum(differences < 0)
    assert found.against == study.best_trial.number  # here settings are entered in order


def test_what_is_told_twice_counts_once() -> None:
    judge = judge_of("median")
    judge.begin(0, {"alpha": 1})
    judge.begin(0, {"alpha": 2})
    judge.cut(0, [0.1, 0.2])
    judge.cut(0, [0.1, 0.2])
    judge.cut(0, [0.1])
    judge.finish(0, 0.2)
    judge.finish(0, 0.3)
    (trial,) = judge.study.trials
    assert trial.intermediate_values == {1: 0.1, 2: 0.2}
    assert (trial.value, trial.user_attrs) == (0.2, {"alpha": 1})


@pytest.mark.parametrize("name", CURVE_PRUNERS)
def test_a_forgotten_setting_was_never_there(name: str, curves: list[list[float]]) -> None:
    """Hyperband reads the trial's number and halving all reports, finished or not."""
    wanted = cuts(judge_of(name), curves)
    judge, found = judge_of(name), []
    for number, curve in enumerate(curves):
        ahead = 100 + number
        judge.begin(ahead, {})
        judge.cut(ahead, [value / 2 for value in curve][: 1 + number % EPOCHS])
        judge.forget(ahead)
        judge.forget(ahead)
        found += cuts(judge, [curve], first=number)
    assert found == wanted
    assert [trial.user_attrs for trial in judge.study.trials] == [
        {"alpha": 0.1 * number} for number in range(len(curves))
    ]


# For optuna-dashboard and for scripts.


def test_saved_studies_are_loaded_by_optuna(tmp_path: Path, curves: list[list[float]]) -> None:
    path = tmp_path / "optuna.journal"
    settings, within = judge_of("wilcoxon", Objective.ASR), judge_of("median")
    for step in range(3):
        settings.begin(0, {"alpha": 0.7, "defence_seed": None, "unlearn_milestones": (10, 20)})
        settings.report(0, step, 0.5)
    within_two = PruningStudy("another", PrunerChoice(pruner="median"), Objective.DER)
    cuts(within, curves)
    for _ in range(2):  # a second time replaces the file
        save_studies(path, [settings, within_two])
    assert [entry.name for entry in tmp_path.iterdir()] == ["optuna.journal"]
    storage = JournalStorage(JournalFileBackend(str(path)))
    assert sorted(optuna.get_all_study_names(storage)) == ["another", "judge"]
    loaded = optuna.load_study(study_name="judge", storage=storage)
    assert loaded.direction == settings.study.direction
    (trial,) = loaded.trials
    assert trial.intermediate_values == {0: 0.5, 1: 0.5, 2: 0.5}
    assert trial.user_attrs == {
        "alpha": 0.7,
        "defence_seed": None,
        "unlearn_milestones": [10, 20],
    }
    save_studies(path, [])  # nor does the file of a former run stay, in which somebody pruned
    assert list(tmp_path.iterdir()) == []
    save_studies(path, [within])
    storage = JournalStorage(JournalFileBackend(str(path)))
    loaded = optuna.load_study(study_name="judge", storage=storage)
    assert [(t.state, t.value, t.intermediate_values) for t in loaded.trials] == [
        (t.state, t.value, t.intermediate_values) for t in within.study.trials
    ]


@pytest.mark.parametrize("objective", [Objective.DER, Objective.ASR])
def test_the_cheap_test_changes_no_answer(
    objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna's pruner is asked near its threshold alone; values tie here."""
    asked = []
    prune = optuna.pruners.WilcoxonPruner.prune

    def counted(pruner: Any, study: Any, trial: Any) -> bool:
        asked.append(trial.number)
        return prune(pruner, study, trial)

    monkeypatch.setattr(optuna.pruners.WilcoxonPruner, "prune", counted)
    source = random.Random(3)
    worse = -1 if objective.maximise else 1
    values = [
        [round(0.5 - worse * gain + source.gauss(0, 0.1), 2) for _ in range(70)]
        for gain in (0.0, -0.02, 0.02, -0.06, 0.01)
    ]
    found, counts = [], []
    for cheap in (True, False):
        if not cheap:
            monkeypatch.setattr(PruningStudy, "_surely_stays", lambda *_: False)
        asked.clear()
        choice = PrunerChoice(
            pruner="wilcoxon", arguments={"p_threshold": 0.005, "n_startup_steps": 7}
        )
        judge = PruningStudy("settings", choice, objective)
        answers = []
        for number, row in enumerate(values):
            judge.begin(number, {})
            answers.append([judge.report(number, step, value) for step, value in enumerate(row)])
            judge.finish(number, None if True in answers[-1] else sum(row) / len(row))
        found.append(answers)
        counts.append(len(asked))
    assert found[0] == found[1]
    assert any(map(any, found[0]))
    assert 2 * counts[0] < counts[1]
