"""Named generators, and stages that nothing from outside can move."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ulrl_tests.tiny_networks import Victims
from ulrl.clean import CleanConfig, CleanDraw, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.evaluation import Evaluation, evaluate
from ulrl.models import ModelSpec, Weights
from ulrl.poison import Poison
from ulrl.poisoning import make_test_sets, poison_training_set
from ulrl.randomness import generator, seeded_layer_rng
from ulrl.relearning import RelearnConfig, relearn
from ulrl.scoring import ScoreConfig, score_neurons
from ulrl.supervised import VictimConfig
from ulrl.unlearning import UnlearnConfig, unlearn
from ulrl.victim import train_victim
from ulrl.weight_selection import ResetConfig, select_weights


def draws(*name: object, count: int = 4000) -> Tensor:
    seed, *purpose = name
    assert isinstance(seed, int)
    return torch.rand(count, generator=generator(seed, *map(str, purpose)))


def test_streams_are_pinned() -> None:
    """Other numbers here would silently change the results of every study."""
    assert generator(0, "victim", "weights").initial_seed() == 6_944_103_411_340_270_870
    numbers = torch.randint(1000, (5,), generator=generator(0, "victim", "weights"))
    assert numbers.tolist() == [36, 684, 158, 210, 571]


@pytest.mark.parametrize("seed", [-1, 1.5])
def test_a_seed_that_would_be_taken_for_another_is_refused(seed: Any, pictures: ImageSet) -> None:
    """Python's Random(-1) is Random(1), and int(1.5) is 1."""
    with pytest.raises(ValueError, match="a seed is an integer of at least 0; got"):
        generator(seed, "a")
    with pytest.raises(ValueError, match="a seed is an integer of at least 0; got"):
        draw_clean_samples(CleanConfig(clean_ratio=0.1), pictures, seed)


def test_different_names_give_independent_streams() -> None:
    names = [
        (0, "a"),
        (1, "a"),
        (3, "a"),
        (2**40, "a"),
        (0, "b"),
        (0, "a", "b"),
        (0, "ab"),
        (0, "b", "a"),
        (0,),
        (10, "a"),
    ]
    streams = torch.stack([draws(*name) for name in names])
    correlation = torch.corrcoef(streams)
    off_diagonal = correlation - torch.eye(len(names))
    # Five standard errors of a correlation of 4000 independent pairs: 0.079.
    assert float(off_diagonal.abs().max()) < 0.079


def test_default_draws_come_from_the_source_and_leave_the_state(cpu: torch.device) -> None:
    seen = []
    for before in (1, 2):
        torch.manual_seed(before)
        state = torch.get_rng_state()
        source = generator(0, "x")
        with seeded_layer_rng(source, cpu):
            first = torch.rand(3)
        with seeded_layer_rng(source, cpu):
            seen.append((first, torch.rand(3)))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.stack(seen[0]), torch.stack(seen[1]))
    assert not torch.equal(*seen[0]), "the second block goes on where the first ended"


def flat(result: object) -> Iterator[Tensor]:
    """Every number of a result as a tensor, in a fixed order."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, Weights):
        yield from (result.state[name] for name in sorted(result.state))
    elif isinstance(result, Mapping):
        yield from flat(list(result.values()))
    elif isinstance(result, (tuple, list)):
        for item in result:
            yield from flat(item)
    elif isinstance(result, (bool, int, float)):
        yield torch.tensor(result, dtype=torch.float64)
    elif hasattr(result, "__dataclass_fields__"):
        for name in result.__dataclass_fields__:
            yield from flat(getattr(result, name))
    else:
        assert callable(result) or isinstance(result, str) or result is None


@pytest.fixture
def stages(
    pictures: ImageSet,
    model_spec: ModelSpec,
    badnets: Poison,
    cpu: torch.device,
    victim_of: Victims,
) -> dict[str, Callable[[], object]]:
    victim = victim_of(0)
    clean = draw_clean_samples(CleanConfig(clean_ratio=0.12), pictures, seed=0)

    def trained() -> object:
        config = VictimConfig(epochs=1, batch_size=64)
        run = train_victim(config, model_spec, badnets, pictures, 4, cpu)
        return list(run.epochs), run.classifier.weights()

    def ascent() -> object:
        config = UnlearnConfig(unlearn_batch_size=16, unlearn_epochs=4)
        return list(unlearn(config, victim, clean, 0.0, cpu))[-1]

    def scores() -> object:
        config = UnlearnConfig(unlearn_batch_size=16, unlearn_epochs=4)
        return score_neurons(ScoreConfig(), list(unlearn(config, victim, clean, 0.0, cpu))[-1])

    def repaired() -> object:
        config = UnlearnConfig(unlearn_batch_size=16, unlearn_epochs=6)
        *_, end = unlearn(config, victim, clean, 0.2, cpu)
        suspects = select_weights(
            ResetConfig(reinit_ratio=0.5), score_neurons(ScoreConfig(z_threshold=0.5), end)
        )
        assert suspects.layers
        config_b = RelearnConfig(relearn_epochs=2, relearn_batch_size=16)
        run = relearn(config_b, victim, suspects, clean, cpu)
        return list(run.epochs), run.classifier.weights()

    def evaluated() -> Evaluation:
        return evaluate(victim, make_test_sets(badnets, pictures, 0), cpu)

    def drawn() -> object:
        config = CleanConfig(clean_ratio=0.2, clean_draw=CleanDraw.PER_CLASS)
        return draw_clean_samples(config, pictures, 0), poison_training_set(badnets, pictures, 0)

    return {
        "train_victim": trained,
        "unlearn": ascent,
        "score_neurons": scores,
        "relearn": repaired,
        "evaluate": evaluated,
        "draws": drawn,
    }


STAGES = ["train_victim", "unlearn", "score_neurons", "relearn", "evaluate", "draws"]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_gives_the_same_bits_and_leaves_the_global_generators_alone(
    stages: dict[str, Callable[[], object]], name: str
) -> None:
    legacy = np.random.mtrand._rand  # what numpy's module functions draw from
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.randn(1000 * seed)
        before = torch.get_rng_state()
        numpys = legacy.get_state(legacy=False)["state"]["key"].copy()
        runs.append(list(flat(stages[name]())))
        assert torch.equal(torch.get_rng_state(), before)
        assert (legacy.get_state(legacy=False)["state"]["key"] == numpys).all()
    assert len(runs[0]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
