"""Phase 1 of ULRL as an audit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.ulrl_tests.audited import CPU, audited, audited_exactly, benign_model, found_by
from tests.ulrl_tests.repairs import clean_samples
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import HeadAlone
from ulrl.audits.ulrl_scores import UlrlScores
from ulrl.datasets import ImageSet
from ulrl.errors import DivergedError
from ulrl.models import Weights
from ulrl.poison import Poison
from ulrl.scoring import ScoreConfig, score_neurons
from ulrl.unlearning import UnlearnConfig, unlearn

SHORT = UlrlScores(unlearn_batch_size=16)


def test_it_says_what_phase_1_says(victim_of: Callable[[int], Weights], pictures: ImageSet) -> None:
    clean = clean_samples(pictures)
    found = audited(SHORT, victim_of(0), clean)
    *_, ascent = unlearn(UnlearnConfig(unlearn_batch_size=16), victim_of(0), clean, 0.2, CPU)
    scores = score_neurons(ScoreConfig(), ascent)
    assert torch.equal(found.scores, scores.z)
    assert found.suspects == scores.suspects
    assert found.statistic == float(scores.z.max())
    assert int(found.details["collapse_class"]) == scores.collapse_class
    assert found.passes == scores.stop_epoch * 60
    assert float(found.details["stop_accuracy"]) == pytest.approx(scores.stop_accuracy)


def moved(shift: list[float], predicted: list[int]) -> dict[str, Tensor]:
    return {
        "shift": torch.tensor(shift),
        "predicted": torch.tensor(predicted),
        "accuracy": torch.tensor(0.1),
        "epochs": torch.tensor(3),
        "reached": torch.tensor(data=True),
    }


def test_it_ranks_the_target_first(
    victim_of: Callable[[int], Weights], pictures: ImageSet, badnets: Poison
) -> None:
    """In benign models another class is first, and flagged as well: z alone does not tell."""
    clean = clean_samples(pictures, 0.5)
    for seed in range(3):
        victim = audited_exactly(SHORT, victim_of(seed), clean)
        assert victim.rank(badnets.target_label) == 1
        assert badnets.target_label in (victim.suspects or ())
        assert victim.statistic > 7
        model = benign_model(victim_of(seed).model_spec, pictures, seed)
        benign = audited_exactly(SHORT, model, clean)
        assert benign.rank(badnets.target_label) > 3
        assert benign.suspects


def test_the_rows_that_moved_far_are_suspects() -> None:
    """The median is 3, and a deviation 1.4826 × 1: 30 and 10 are 18.2 and 4.7 of them above."""
    found = UlrlScores().result(
        moved([30.0, 2.0, 3.0, 10.0, 4.0, 3.0, 1.0], [0, 0, 5, 0, 1, 0, 0]), 6
    )
    assert found.suspects == (0, 3)
    assert found.statistic == pytest.approx(27 / 1.4826)
    assert float(found.scores[6]) == pytest.approx(-2 / 1.4826)
    assert int(found.details["collapse_class"]) == 2
    assert UlrlScores(z_threshold=5.0).result(
        moved([30.0, 2.0, 3.0, 10.0, 4.0, 3.0, 1.0], [6] * 7), 6
    ).suspects == (0,)


def test_twice_is_the_same(victim_of: Callable[[int], Weights], pictures: ImageSet) -> None:
    first, second = (found_by(SHORT, victim_of(0), clean_samples(pictures))[0] for _ in range(2))
    assert same(dict(first), dict(second))


def test_the_rule_is_in_no_stage() -> None:
    assert UlrlScores(z_threshold=5.0).stages == UlrlScores().stages
    assert UlrlScores(unlearn_lr=0.1).stages != UlrlScores().stages


def test_an_ascent_that_diverges_has_no_result(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    state = dict(victim_of(0).state)
    state["linear.weight"] = 1e38 * state["linear.weight"]
    model = Weights(model_spec=victim_of(0).model_spec, state=state)
    with pytest.raises(DivergedError, match="a smaller unlearn_lr may help"):
        audited(UlrlScores(), model, clean_samples(pictures))


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("z_threshold", 0.0, "above 0 and at most 1e6"),
        ("unlearn_threshold", 1.5, "in .0, 1."),
        ("unlearn_lr", 0.0, "above 0"),
        ("unlearn_epochs", 0, "from 1 to 1000"),
        ("unlearn_batch_size", 0, "unlearn_batch_size is"),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        UlrlScores(**{option: value})  # type: ignore[arg-type]


def test_two_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="needs at least 3 classes; there are 2"):
        UlrlScores().check(HeadAlone(4, 2), "head", 2)
    UlrlScores().check(HeadAlone(4, 3), "head", 3)
