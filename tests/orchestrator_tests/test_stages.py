"""The stage runner on a real study: what comes through the store is what the stages give."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.address import Address
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.inputs import model_spec_of
from orchestrator.pipeline.stages import StageRunner
from orchestrator.pipeline.ulrl_chain import ascent_entry
from orchestrator.plan.jobs import Job, JobKind, Progress, Site
from orchestrator.plan.plan import Plan, Trial
from orchestrator.store.lookup import RepairResult, VictimResult
from orchestrator.store.schema import narrowed, pack
from orchestrator.store.serialization import StoredEvaluation
from tests.orchestrator_tests.places import AXES, VICTIM, Place, plan_of
from ulrl.clean import draw_clean_samples
from ulrl.evaluation import CountedEvaluation, Evaluation, evaluate
from ulrl.metrics import measure
from ulrl.models import Weights
from ulrl.poisoning import make_test_sets
from ulrl.relearning import relearn
from ulrl.scoring import NeuronScores, score_neurons
from ulrl.unlearning import unlearn
from ulrl.victim import train_victim
from ulrl.weight_selection import select_weights

CPU = torch.device("cpu")


def same_state(one: Weights, other: dict[str, torch.Tensor]) -> bool:
    return one.state.keys() == other.keys() and all(
        torch.equal(value, other[name]) for name, value in one.state.items()
    )


def same_scores(one: NeuronScores, other: NeuronScores) -> bool:
    (values, tensors), (theirs, their_tensors) = pack(one), pack(other)
    return values == theirs and all(
        torch.equal(tensor.nan_to_num(-1), their_tensors[name].nan_to_num(-1))
        for name, tensor in tensors.items()
    )


def same_evaluation(found: VictimResult | RepairResult, wanted: CountedEvaluation) -> bool:
    """Whether metrics are equal, and so are counts."""
    counts = StoredEvaluation.of(wanted).counts
    return found.evaluation == narrowed(Evaluation, wanted) and all(
        torch.equal(found.counts[name], table) for name, table in counts.items()
    )


# The stages by themselves, each threshold with an ascent of its own.


@pytest.fixture(scope="module")
def images(plan: Plan) -> Any:
    return plan.scenarios[0].dataset.load()


@pytest.fixture(scope="module")
def victim(plan: Plan, images: Any) -> Weights:
    scenario = plan.scenarios[0]
    model_spec = model_spec_of(scenario, images)
    config = VICTIM.config(scenario.dataset.name, scenario.poison.attack.name)
    run = train_victim(config, model_spec, scenario.poison, images, scenario.seed, CPU)
    assert [epoch.number for epoch in run.epochs] == [1, 2]
    return run.classifier.weights()


@pytest.fixture(scope="module")
def alone(plan: Plan, images: Any, victim: Weights) -> Callable[[Trial], dict[str, Any]]:
    """Return the results of a trial's stages, made without store and sharing."""
    scenario = plan.scenarios[0]
    tests = make_test_sets(scenario.poison, images, scenario.seed)

    def run(trial: Trial) -> dict[str, Any]:
        parts = trial.hyperparameters
        clean = draw_clean_samples(parts.clean, images, trial.defence_seed)
        threshold = parts.score.unlearn_threshold
        *_, ascent = unlearn(parts.unlearn, victim, clean, threshold, CPU)
        scores = score_neurons(parts.score, ascent)
        repair = relearn(parts.relearn, victim, select_weights(parts.reset, scores), clean, CPU)
        curve = []
        for _ in repair.epochs:
            point = measure(repair.classifier.predict, tests.monitor)
            curve.append((point.acc, point.asr, point.ra))
        weights = repair.classifier.weights()
        return {
            "scores": scores,
            "curve": tuple(curve),
            "weights": weights,
            "evaluation": evaluate(weights, tests, CPU),
            "before": evaluate(victim, tests, CPU),
        }

    return run


def test_the_victim_is_what_its_stages_give(
    plan: Plan, made: Place, victim: Weights, alone: Callable[[Trial], dict[str, Any]]
) -> None:
    entry = made.store.read("train_victim", made.keys.victim(plan.scenarios[0]))
    assert entry is not None
    assert same_state(victim, entry.tensors)
    finding = made.findings.victim(plan.scenarios[0])
    assert finding is not None
    assert same_evaluation(finding, alone(plan.trials[0])["before"])
    assert len(finding.training) == VICTIM.config("digits", "badnets").epochs


def test_every_trial_is_what_its_stages_give(
    plan: Plan, made: Place, alone: Callable[[Trial], dict[str, Any]]
) -> None:
    """With sharing as without: bit for bit."""
    findings, keys = made.findings, set()
    for trial in plan.trials:
        wanted = alone(trial)
        scored = findings.scores(trial)
        assert scored is not None
        assert same_scores(scored.scores, wanted["scores"])
        keys.add(scored.relearn_key)
        repaired = findings.repair(trial, scored.relearn_key)
        assert repaired is not None
        assert repaired.curve == wanted["curve"]
        assert same_evaluation(repaired, wanted["evaluation"])
        weights = made.store.read("repaired", scored.relearn_key)
        assert weights is not None
        assert same_state(wanted["weights"], weights.tensors)
    assert 2 <= len(keys) <= 4
    assert any(
        (found := findings.scores(trial)) is not None and found.scores.suspects
        for trial in plan.trials
    )


def test_each_stage_is_executed_once(made: Place, copy: Place) -> None:
    stages = [run.stage for _, runs in made.done for run in runs]
    relearns = len(list((made.root / "relearn").rglob("*.safetensors")))
    assert stages[:5] == [
        *("train_victim", "evaluate", "unlearn", "score_neurons", "score_neurons")
    ]
    assert stages[5:] == ["relearn", "evaluate"] * relearns
    assert copy.do_all() == []


# What is told of it.


def test_runs_and_progress_of_a_victim(plan: Plan, made: Place) -> None:
    scenario = plan.scenarios[0]
    seen, runs = made.done[0]
    assert seen == [Progress(stage="train_victim", epoch=n, epochs=2) for n in (1, 2)]
    key = made.keys.victim(scenario)
    assert [(run.stage, run.key) for run in runs] == [
        ("train_victim", key),
        ("evaluate", made.keys.evaluation(key)),
    ]
    for run in runs:
        assert (run.scenario, run.study) == (scenario.text, "me")
        entry = made.store.peek(run.stage, run.key)
        assert entry is not None
        assert entry.seconds == run.seconds > 0


def test_progress_of_a_trial_is_its_curve(copy: Place) -> None:
    job = copy.jobs[-1]
    scored = copy.findings.scores(copy.plan.trials[-1])
    assert scored is not None
    stored = copy.findings.repair(copy.plan.trials[-1], scored.relearn_key)
    assert stored is not None
    copy.store.delete("relearn", scored.relearn_key)
    seen, runs = copy.do(job)
    assert [(p.stage, p.epoch, p.epochs) for p in seen] == [("relearn", 1, 2), ("relearn", 2, 2)]
    assert [p.curve for p in seen] == [stored.curve[:1], stored.curve]
    assert [run.stage for run in runs] == ["relearn"]


def test_the_ascent_keeps_the_monitors_curve(made: Place) -> None:
    trial = made.plan.trials[0]
    scored = made.findings.scores(trial)
    assert scored is not None
    ascent = made.findings.ascent(scored)
    assert len(ascent["curve"]) == len(ascent["accuracy"]) == len(ascent["loss"])
    assert all(len(point) == 3 for point in ascent["curve"])
    assert scored.runs[0].seconds + scored.runs[1].seconds == scored.seconds


# One ascent for all thresholds.


def ascent_item(plan: Plan, *thresholds: float) -> Job:
    trials = [
        trial
        for trial in plan.trials
        if trial.hyperparameters.score.unlearn_threshold in thresholds
    ]
    return replace(JobCatalog(plan).groups[0].job, trials=tuple(trials))


def test_a_deeper_ascent_answers_for_a_shallower(plan: Plan, made: Place, tmp_path: Path) -> None:
    place = Place(plan, tmp_path)
    place.take(made, "train_victim")
    high, low = AXES["unlearn_threshold"]
    _, runs = place.do(ascent_item(plan, low))
    assert [run.stage for run in runs] == ["unlearn", "score_neurons"]
    _, runs = place.do(ascent_item(plan, high))
    assert [run.stage for run in runs] == ["score_neurons"]
    scored = place.findings.scores(plan.trials[-1])
    assert scored is not None
    assert scored.runs[0].key == ascent_entry(place.keys.ascent(plan.trials[0]), low)


def test_a_shallow_ascent_does_not_answer_for_a_deeper(
    plan: Plan, made: Place, tmp_path: Path
) -> None:
    place = Place(plan, tmp_path)
    place.take(made, "train_victim")
    high, low = AXES["unlearn_threshold"]
    place.do(ascent_item(plan, high))
    _, runs = place.do(ascent_item(plan, low))
    assert [run.stage for run in runs] == ["unlearn", "score_neurons"]
    for trial in plan.trials:
        ours, theirs = place.findings.scores(trial), made.findings.scores(trial)
        assert ours is not None
        assert theirs is not None
        assert same_scores(ours.scores, theirs.scores)
        assert ours.relearn_key == theirs.relearn_key


def test_no_result_depends_on_torchs_own_generator(plan: Plan, made: Place, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234)
        place = Place(plan, tmp_path)
        before = torch.get_rng_state()
        place.do_all()
        assert torch.equal(torch.get_rng_state(), before)
    assert place.content() == made.content()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_workshop_that_did_other_scenarios_gives_the_same(made: Place, tmp_path: Path) -> None:
    """More of them than it keeps at hand."""
    place = Place(plan_of(2, 1, 0), tmp_path)
    runner = StageRunner(place.site, VICTIM)
    for job in place.jobs:
        if job.scenario.seed == 0 or job.kind is JobKind.VICTIM:
            for _ in runner.work(job):
                pass
    wanted = made.content()
    assert {name: place.content()[name] for name in wanted} == wanted


def test_the_number_of_threads_is_the_sites(tmp_path: Path) -> None:
    try:
        StageRunner(Site(store=Address(str(tmp_path)), study="me", threads=2), VICTIM)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
