"""Keys: everything that changes a number changes the key, and nothing else does."""

from dataclasses import replace

import pytest
import torch

from orchestrator.plan.plan import Trial, make_plan
from orchestrator.plan.resources import Compute
from orchestrator.store import keys
from orchestrator.store.keys import digest_of
from tests.orchestrator_tests.key_cases import (
    ALL,
    FROM_ASCENT,
    FROM_RELEARN,
    ROW,
    SUSPECTS,
    all_keys,
    cases,
    changed,
    first_trial,
    ring,
    variants,
    with_part,
)
from tests.orchestrator_tests.small_studies import small_study
from ulrl import poisoning
from ulrl.clean import CleanConfig
from ulrl.relearning import RelearnConfig
from ulrl.scoring import NeuronScores, ScoreConfig
from ulrl.supervised import VictimConfig
from ulrl.unlearning import UnlearnConfig
from ulrl.weight_selection import LayerSuspects, ResetConfig, Suspects, select_weights


@pytest.fixture(scope="module")
def trial() -> Trial:
    return first_trial()


@pytest.mark.parametrize("config", cases(VictimConfig()))
def test_every_field_of_the_victim_changes_all_keys(trial: Trial, config: VictimConfig) -> None:
    assert changed(all_keys(ring(), trial), all_keys(ring(config), trial)) == ALL


@pytest.mark.parametrize("config", cases(CleanConfig()))
def test_every_field_of_the_clean_samples_changes_what_uses_them(
    trial: Trial, config: CleanConfig
) -> None:
    base = with_part(trial, clean=CleanConfig())
    found = changed(all_keys(ring(), base), all_keys(ring(), with_part(trial, clean=config)))
    assert found == FROM_ASCENT | FROM_RELEARN


@pytest.mark.parametrize("config", cases(UnlearnConfig()))
def test_every_field_of_the_ascent_changes_what_it_makes(
    trial: Trial, config: UnlearnConfig
) -> None:
    """And not the relearning: phase 1 reaches it through its suspects alone."""
    base = with_part(trial, unlearn=UnlearnConfig())
    found = changed(all_keys(ring(), base), all_keys(ring(), with_part(trial, unlearn=config)))
    assert found == FROM_ASCENT


@pytest.mark.parametrize("config", cases(ScoreConfig()))
def test_every_field_of_the_score_changes_the_scores(trial: Trial, config: ScoreConfig) -> None:
    base = with_part(trial, score=ScoreConfig())
    found = changed(all_keys(ring(), base), all_keys(ring(), with_part(trial, score=config)))
    assert found == {"scores"}


@pytest.mark.parametrize("config", cases(RelearnConfig()))
def test_every_field_of_the_relearning_changes_what_it_makes(
    trial: Trial, config: RelearnConfig
) -> None:
    base = with_part(trial, relearn=RelearnConfig())
    found = changed(all_keys(ring(), base), all_keys(ring(), with_part(trial, relearn=config)))
    assert found == FROM_RELEARN


@pytest.mark.parametrize("config", cases(ResetConfig(reinit_ratio=1.0)))
def test_the_reset_reaches_the_key_through_the_suspects(trial: Trial, config: ResetConfig) -> None:
    scores = some_scores()
    suspects = [select_weights(c, scores) for c in (ResetConfig(), config)]
    one, other = (
        all_keys(ring(), with_part(trial, reset=c), s)
        for c, s in zip((ResetConfig(), config), suspects, strict=True)
    )
    assert changed(one, other) == FROM_RELEARN


def some_scores(suspects: tuple[int, ...] = (1,), *, reached: bool = True) -> NeuronScores:
    movement = torch.arange(len(suspects) * 8.0).reshape(len(suspects), 8)
    return NeuronScores(
        layers=("linear",),
        sizes=(10,),
        shift=torch.ones(10),
        z=torch.ones(10),
        suspects=suspects,
        movement={"linear.weight": movement} if suspects else {},
        stop_epoch=2,
        stop_accuracy=0.1,
        predicted=torch.full((10,), 5),
        threshold_reached=reached,
        diverged=False,
    )


def suspects_in(*layers: LayerSuspects) -> Suspects:
    return Suspects(layers=layers, reset_bias=True)


@pytest.mark.parametrize(
    "suspects",
    [
        suspects_in(replace(ROW, rows=(2,))),
        suspects_in(replace(ROW, reset=torch.tensor([[True, False, False, True]]))),
        suspects_in(replace(ROW, weight="conv.weight")),
        suspects_in(replace(ROW, rows=(1, 2), reset=ROW.reset.repeat(2, 1))),
        suspects_in(replace(ROW, weight="conv.weight"), ROW),
        suspects_in(),
        replace(SUSPECTS, reset_bias=False),
    ],
)
def test_every_part_of_the_suspects_changes_the_relearning(
    trial: Trial, suspects: Suspects
) -> None:
    assert changed(all_keys(ring(), trial), all_keys(ring(), trial, suspects)) == FROM_RELEARN


def test_settings_that_agree_in_their_suspects_share_a_relearning(trial: Trial) -> None:
    low, high = (
        with_part(
            trial,
            score=ScoreConfig(unlearn_threshold=threshold, z_threshold=z),
            unlearn=UnlearnConfig(unlearn_lr=lr),
        )
        for threshold, z, lr in ((0.1, 3.5, 0.01), (0.4, 2.0, 0.02))
    )
    one = select_weights(ResetConfig(reinit_ratio=0.5), some_scores())
    # Half of eight weights, and four and two fifths rounded: the same four.
    other = select_weights(ResetConfig(reinit_ratio=0.55), some_scores(reached=False))
    assert ring().relearn(low, one) == ring().relearn(high, other)
    assert digest_of(one) == digest_of(other)


def test_without_suspects_the_reinit_ratio_is_nothing(trial: Trial) -> None:
    """Nothing is re-initialised then, so all ratios share the plain fine-tuning."""
    none = some_scores(suspects=())
    found = {
        ring().relearn(trial, select_weights(ResetConfig(reinit_ratio=ratio), none))
        for ratio in (0.0, 0.5, 1.0)
    }
    assert len(found) == 1


NO_SUSPECTS = Suspects(layers=(), reset_bias=False)
UNMARKED = suspects_in(replace(ROW, reset=torch.zeros_like(ROW.reset)))
OF_COSINE = {"alpha", "cosine_form", "cosine_reduction"}
OF_REINIT = {"reinit_distribution", "reinit_scale"}
NOTHING: set[str] = set()


@pytest.mark.parametrize(
    ("suspects", "unused"),
    [(NO_SUSPECTS, OF_COSINE | OF_REINIT), (UNMARKED, OF_REINIT), (SUSPECTS, NOTHING)],
    ids=["no suspects", "no weights marked", "marked suspects"],
)
def test_what_suspects_leave_unused_is_no_part_of_the_relearning(
    trial: Trial, suspects: Suspects, unused: set[str]
) -> None:
    def key(config: RelearnConfig) -> str:
        return ring().relearn(with_part(trial, relearn=config), suspects)

    base = RelearnConfig()
    found = {name for name, config in variants(base) if key(config) == key(base)}
    assert found == unused


@pytest.mark.parametrize("compute", [Compute(device="cuda"), Compute(threads=2)])
def test_what_computes_changes_all_keys(trial: Trial, compute: Compute) -> None:
    assert changed(all_keys(ring(), trial), all_keys(ring(compute=compute), trial)) == ALL


def test_the_defence_seed_changes_what_the_defence_makes(trial: Trial) -> None:
    other = replace(trial, defence_seed=trial.defence_seed + 1)
    assert changed(all_keys(ring(), trial), all_keys(ring(), other)) == FROM_ASCENT | FROM_RELEARN


@pytest.mark.parametrize(
    ("stage", "found"),
    [
        ("victim_stage", ALL),
        ("unlearning", FROM_ASCENT),
        ("scoring", {"scores"}),
        ("relearning", FROM_RELEARN),
        ("evaluation", {"evaluated", "evaluated victim"}),
    ],
)
def test_a_new_version_of_a_stage_changes_what_follows_from_it(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, stage: str, found: set[str]
) -> None:
    before = all_keys(ring(), trial)
    module = getattr(keys, stage)
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert changed(before, all_keys(ring(), trial)) == found


def test_the_size_of_the_monitor_changes_the_curve(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = all_keys(ring(), trial)
    monkeypatch.setattr(poisoning, "MONITOR_COUNT", 128)
    assert changed(before, all_keys(ring(), trial)) == FROM_ASCENT | FROM_RELEARN


def test_a_ring_that_has_seen_other_trials_gives_the_same_keys() -> None:
    study = small_study(
        settings={
            "unlearn_threshold": (0.1, 0.2),
            "alpha": (0.1, 0.2),
            "unlearn_lr": (0.1, 0.2),
            "defence_seed": (0, 1),
            "clean_ratio": (0.1, 0.2),
        },
        grid={"seeds": (0, 1)},
        few={},
    )
    trials = make_plan(study).trials
    used = ring()
    for trial in reversed(trials):
        all_keys(used, trial)
    assert [all_keys(used, trial) for trial in trials] == [
        all_keys(ring(), trial) for trial in trials
    ]


def test_the_scheme_is_a_file_format() -> None:
    """A change of this key makes every store in the world recompute: bump VERSION instead."""
    found = all_keys(ring(), first_trial())["evaluated"]
    assert found == "ae9bea5857d592dc0285511adcbc42bf312eeb25a82361e90157e7450eb99dff"
