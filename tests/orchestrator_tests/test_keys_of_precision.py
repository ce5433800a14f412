"""Keys and number formats: names for one arithmetic share a key, different ones do not."""

from dataclasses import replace
from itertools import pairwise

import pytest

from orchestrator.plan.plan import Trial
from orchestrator.plan.resources import Compute
from orchestrator.store.keys import settled
from tests.orchestrator_tests.key_cases import (
    ALL,
    FROM_ASCENT,
    FROM_RELEARN,
    all_keys,
    changed,
    first_trial,
    ring,
    with_part,
)
from ulrl.precision import Precision
from ulrl.relearning import RelearnConfig
from ulrl.supervised import VictimConfig
from ulrl.unlearning import UnlearnConfig

FP32, BF16, FP16, AUTO, AMP = Precision


@pytest.fixture(scope="module")
def trial() -> Trial:
    return first_trial()


def keys_in(trial: Trial, stage: str, precision: Precision, device: str) -> dict[str, str]:
    """Return a trial's keys with one stage in that format."""
    compute = Compute(device=device)
    if stage == "victim":
        return all_keys(ring(VictimConfig(precision=precision), compute), trial)
    parts = {
        "unlearn": UnlearnConfig(unlearn_precision=precision),
        "relearn": RelearnConfig(relearn_precision=precision),
    }
    return all_keys(ring(compute=compute), with_part(trial, **{stage: parts[stage]}))


STAGES = {"victim": ALL, "unlearn": FROM_ASCENT, "relearn": FROM_RELEARN}


@pytest.mark.parametrize("stage", STAGES)
def test_on_a_cpu_what_is_fp32_shares_its_keys(trial: Trial, stage: str) -> None:
    keys = {precision: keys_in(trial, stage, precision, "cpu") for precision in Precision}
    assert keys[AUTO] == keys[AMP] == keys[FP32]
    for one, other in pairwise([FP32, BF16, FP16, FP32]):
        assert changed(keys[one], keys[other]) == STAGES[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_on_a_gpu_amp_is_fp16_and_only_the_worker_knows_what_auto_is(
    trial: Trial, stage: str
) -> None:
    keys = {precision: keys_in(trial, stage, precision, "cuda") for precision in Precision}
    assert keys[AMP] == keys[FP16]
    for one, other in pairwise([FP32, BF16, FP16, AUTO, FP32]):
        assert changed(keys[one], keys[other]) == STAGES[stage]
    assert changed(keys[AUTO], keys[BF16]) == STAGES[stage]


def test_settling_changes_nothing_else() -> None:
    config = RelearnConfig(relearn_precision=AMP, alpha=0.3)
    assert settled(config, Compute()) == replace(config, relearn_precision=FP32)
    assert settled(config, Compute(device="cuda")) == replace(config, relearn_precision=FP16)
    victim = VictimConfig(epochs=3)
    assert settled(victim, Compute(device="cuda")) == victim
    assert settled(victim, Compute()) == replace(victim, precision=FP32)
