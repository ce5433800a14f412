"""Stage results as entries: what goes into the store comes out as the same result."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator.store.schema import SchemaMismatch, narrowed, pack, widened
from orchestrator.store.serialization import ASCENT as UNLEARN
from orchestrator.store.serialization import (
    EVALUATION,
    SCORES,
    VICTIM,
    Stage,
    StoredAscent,
    StoredEvaluation,
    StoredScores,
    StoredVictim,
)
from orchestrator.store.store import Entry, Store
from ulrl.datasets.digits import Digits
from ulrl.edits import EDITS, Edits
from ulrl.evaluation import CountedEvaluation, Evaluation
from ulrl.metrics import Confusion, Metrics
from ulrl.models import ModelSpec, initialise
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.randomness import generator
from ulrl.scoring import NeuronScores, ScoreConfig, score_neurons
from ulrl.unlearning import Ascent

ASCENT = Ascent(
    before={
        "z.weight": torch.randn(3, 2, generator=generator(0, "z")),
        "head.weight": torch.randn(10, 4, generator=generator(0, "a")),
        "head.bias": torch.zeros(10),
    },
    after={
        "z.weight": torch.randn(2, 3, 2, generator=generator(0, "y")),
        "head.weight": torch.randn(2, 10, 4, generator=generator(0, "b")),
        "head.bias": torch.ones(2, 10),
    },
    kept=(1, 3),
    predicted=torch.arange(20).reshape(2, 10),
    accuracy=(0.9, 0.95, 1 / 3),
    loss=(0.1, float("inf"), float("nan")),
    diverged=True,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def through(store: Store, result: Any) -> Any:
    """Return what a later process reads of a result."""
    stage = Stage("stage", type(result))
    stage.write(store, "key", result)
    found = stage.read(store, "key")
    assert found is not None
    return found.content


def same(one: Any, other: Any) -> bool:
    """Whether two results are of one type and agree to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.equal(other)
    if isinstance(one, dict):  # in order, since neurons are counted through the layers
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if dataclasses.is_dataclass(one):
        fields = dataclasses.fields(one)
        return type(one) is type(other) and all(
            same(getattr(one, f.name), getattr(other, f.name)) for f in fields
        )
    return type(one) is type(other) and repr(one) == repr(other)


def test_an_ascent(store: Store) -> None:
    assert same(through(store, ASCENT), ASCENT)


@pytest.mark.parametrize("max_suspects", [0, 1, 10, None])
def test_scores(store: Store, max_suspects: int | None) -> None:
    config = ScoreConfig(unlearn_threshold=0.95, z_threshold=0.1, max_suspects=max_suspects)
    scores = score_neurons(config, ASCENT)
    cap = 13 if max_suspects is None else max_suspects
    assert (cap > 0) <= len(scores.suspects) <= cap
    back = through(store, scores)
    assert same(back, scores)
    assert back.places == scores.places


def test_what_is_stored_with_a_result_comes_back_with_it(store: Store) -> None:
    ascent = widened(StoredAscent, ASCENT, curve=((0.5, 1.0, 0.0),))
    UNLEARN.write(store, "key", ascent)
    found = UNLEARN.read(store, "key")
    assert found is not None
    assert same(found.content, ascent)
    assert same(narrowed(Ascent, found.content), ASCENT)
    more: dict[str, Any] = {"ascent_key": "a", "ascent_seconds": 2.0, "ascent_study": "b"}
    scores = score_neurons(ScoreConfig(), ASCENT)
    SCORES.write(store, "key", widened(StoredScores, scores, **more), seconds=1.5, study="me")
    there = SCORES.read(store, "key")
    assert there is not None
    assert same(narrowed(NeuronScores, there.content), scores)
    assert {name: getattr(there.content, name) for name in more} == more
    assert (there.seconds, there.study) == (1.5, "me")


def confusion(matrix: Tensor, wanted: int) -> Confusion:
    """Return counts; those of triggered images lack the wanted class."""
    triggered = matrix.clone()
    triggered[wanted] = 0
    aims = torch.full((len(matrix),), wanted)
    aims[wanted] = -1
    return Confusion(clean=matrix, triggered=triggered, targets=aims)


def counted(*both: Confusion) -> CountedEvaluation:
    """Return an evaluation with counts of both halves."""
    return CountedEvaluation(
        selection=Metrics(acc=1 / 3, asr=0.0, ra=1.0),
        report=Metrics(acc=0.1, asr=0.2, ra=0.3),
        selection_confusion=both[0],
        report_confusion=both[1],
    )


@pytest.mark.parametrize("largest", [7, 40_000])
def test_an_evaluation(store: Store, largest: int) -> None:
    matrix = torch.tensor([[3, 0, 1], [0, largest, 0], [2, 0, 5]])
    both = [confusion(matrix, wanted) for wanted in (0, 1)]
    evaluation = counted(*both)
    shown = {name: torch.zeros(2, 1, 8, 8, dtype=torch.uint8) for name in ("clean", "triggered")}
    EVALUATION.write(store, "key", StoredEvaluation.of(evaluation, shown))
    found = EVALUATION.read(store, "key")
    assert found is not None
    assert narrowed(Evaluation, found.content) == narrowed(Evaluation, evaluation)
    assert same(dict(sorted(found.content.specimens.items())), shown)
    counts = {name: table.tolist() for name, table in found.content.counts.items()}
    clean = [[0, 0, 3], [0, 2, 1], [1, 1, largest], [2, 0, 2], [2, 2, 5]]
    assert counts["selection_clean"] == counts["report_clean"] == clean
    assert counts["selection_triggered"] == [
        [t, 0, p, n]
        for t, p, n in clean
        if t != 0  # true, wanted, predicted, images
    ]
    assert counts["report_triggered"] == [[t, 1, p, n] for t, p, n in clean if t != 1]


def test_an_evaluation_with_edits_and_one_from_before_they_were_stored(store: Store) -> None:
    matrix = torch.tensor([[3, 0, 1], [0, 7, 0], [2, 0, 5]])
    evaluation = counted(*(confusion(matrix, wanted) for wanted in (0, 1)))
    table = {name: torch.tensor([1.5, 2.0], dtype=torch.float64) for name in EDITS}
    edits = Edits(layers=("conv", "head"), by_layer=table)
    EVALUATION.write(store, "key", StoredEvaluation.of(evaluation, edits=edits))
    found = EVALUATION.read(store, "key")
    assert found is not None
    assert found.content.layers == ("conv", "head")
    assert same(dict(found.content.edits), table)
    values, tensors = pack(StoredEvaluation.of(evaluation))
    for name in ("layers", "edits"):  # as it was stored before
        values.pop(name)
    store.write("evaluate", "old", Entry(values=values, tensors=tensors))
    old = EVALUATION.read(store, "old")
    assert old is not None
    assert (old.content.layers, dict(old.content.edits)) == ((), {})
    cut = Edits(layers=("conv",), by_layer=table)
    with pytest.raises(SchemaMismatch, match="other edits than one of each kind for each layer"):
        EVALUATION.write(store, "bad", StoredEvaluation.of(evaluation, edits=cut))


def test_an_evaluation_without_counts_is_none(store: Store) -> None:
    evaluation = {"selection": {"acc": 0.5, "asr": 0.5, "ra": 0.5}}
    evaluation["report"] = evaluation["selection"]
    store.write("evaluate", "old", Entry(values=evaluation))
    assert EVALUATION.read(store, "old") is None


def test_weights(store: Store) -> None:
    model_spec = ModelSpec(
        architecture=PreActResNet18(width=1),
        classes=3,
        channels=1,
        side=8,
        preprocessing=Digits().preprocessing,
    )
    weights = initialise(model_spec, generator(0, "x"), torch.device("cpu")).weights()
    content = StoredVictim(training=(), state=weights.state)
    VICTIM.write(store, "key", content, model_spec=model_spec)
    found = VICTIM.read(store, "key", model_spec)
    assert found is not None
    back = found.content.of(model_spec)
    assert back.model_spec is model_spec
    assert back.state.keys() == weights.state.keys()
    assert all(same(back.state[name], value) for name, value in weights.state.items())
