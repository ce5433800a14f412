"""What each stage stores, and the one way to read and to write it.

The dataclasses here are the schemas of the store's entries. An entry that does not fit counts
as absent, as a damaged one does, so that its stage is computed again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import torch
from jaxtyping import Float64, Integer, UInt8
from torch import Tensor

from orchestrator.store.schema import OWN_NAMES, SchemaMismatch, pack, unpack
from orchestrator.store.store import Entry, Store
from ulrl.edits import EDITS, Edits
from ulrl.evaluation import CountedEvaluation, Evaluation
from ulrl.interchange import sketch_of
from ulrl.metrics import Confusion, Metrics
from ulrl.models import ModelSpec, Weights
from ulrl.ranges import Interval, Proportion
from ulrl.scoring import NeuronScores
from ulrl.unlearning import Ascent

T = TypeVar("T")

Amount: TypeAlias = Annotated[float, Interval(0.0, 1e300)]  # finite, not negative
# ACC, ASR and RA; without an attack ACC alone
Point: TypeAlias = tuple[Proportion, Proportion | None, Proportion | None]
Points: TypeAlias = tuple[Point, ...]  # of each epoch
Training: TypeAlias = tuple[tuple[float, Proportion], ...]  # loss and accuracy of each epoch

HALVES = ("selection", "report")
COUNTS = {  # columns of the tables of an evaluation's counts
    f"{half}_{images}": columns
    for half in HALVES
    for images, columns in (("clean", 3), ("triggered", 4))
}


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredTensors:
    """Tensors of an attack, of its helper, or of a stage of a repair method.

    Attributes:
        tensors: In the order of their names: a file has no order, and what is made of tensors that
            were just computed has to be what is made of them once they have been stored.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict, metadata=OWN_NAMES)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", dict(sorted(self.tensors.items())))
        if not self.tensors:
            raise SchemaMismatch("nothing was learned")
        for name, value in self.tensors.items():
            if not value.is_meta and not bool(value.isfinite().all()):
                raise SchemaMismatch(f"the tensor {name} is not finite")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredHelper(StoredTensors):
    """What a helper was trained to do."""

    helper: str


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredWeights:
    """A network's parameters and buffers."""

    state: Mapping[str, Tensor] = field(default_factory=dict, metadata=OWN_NAMES)

    def of(self, model_spec: ModelSpec) -> Weights:
        """Return the weights for the network that they were made from."""
        return Weights(model_spec=model_spec, state=dict(self.state))

    def check(self, model_spec: ModelSpec) -> None:
        """Raise `SchemaMismatch` unless these are finite weights of such a network."""
        expected = _shapes(model_spec)
        if odd := expected.keys() ^ self.state.keys():
            raise SchemaMismatch(f"the tensor {min(odd)} is missing or unknown")
        for name, value in self.state.items():
            shape, real = expected[name]
            if (tuple(value.shape), value.is_floating_point()) != (shape, real):
                raise SchemaMismatch(f"the tensor {name} is not of the network's shape and type")
            if real and not value.is_meta and not bool(value.isfinite().all()):
                raise SchemaMismatch(f"the tensor {name} is not finite")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredVictim(StoredWeights):
    """A victim.

    Attributes:
        training: Of each epoch; empty where the victim was imported.
        learned: Whether its attack learned a trigger along with it, which has its own entry.
    """

    training: Training
    learned: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredAscent(Ascent):
    """An ascent with its curve on the monitor subset."""

    curve: Points = ()

    def __post_init__(self) -> None:
        if self.before.keys() != self.after.keys():
            raise SchemaMismatch("other layers after than before")
        for name, values in self.after.items():
            if values.shape != (len(self.kept), *self.before[name].shape):
                raise SchemaMismatch(f"the tensor {name} is not of its layer's shape")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredScores(NeuronScores):
    """Neuron scores, and what the ascent took that they were read from."""

    ascent_key: str
    ascent_seconds: Amount
    ascent_study: str


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredRelearning:
    """How a relearning went; its weights have their own entry, which may be deleted.

    Attributes:
        curve: On the monitor subset.
        training: Of each epoch.
    """

    curve: Points
    training: Training = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredEvaluation(Evaluation):
    """An evaluation, with its counts, and with test images of a victim.

    Attributes:
        counts: Cells of the confusion matrices that are not zero, by `COUNTS`, each with its true
            class, for triggered images the wanted class, the predicted class and the number of
            images. Most cells are zero where there are many classes.
        specimens: ``clean`` beside ``triggered``.
        layers: Of a repaired model, those of its `Edits`; older results and victims have none.
        edits: Likewise, numbers of each layer by `EDITS`.
    """

    counts: Mapping[str, Integer[Tensor, "cells columns"]]
    specimens: Mapping[str, UInt8[Tensor, "n c h w"]] = field(
        default_factory=dict, metadata=OWN_NAMES
    )
    layers: tuple[str, ...] = ()
    edits: Mapping[str, Float64[Tensor, "layers"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {name: len(values) for name, values in self.edits.items()}
        if self.edits and sizes != dict.fromkeys(EDITS, len(self.layers)):
            raise SchemaMismatch("there are other edits than one of each kind for each layer")
        if {name: table.shape[1] for name, table in self.counts.items()} != COUNTS:
            raise SchemaMismatch(
                "there are other counts than of both kinds of image in both halves"
            )
        attacked = all(isinstance(half, Metrics) for half in (self.selection, self.report))
        if not attacked and any(len(self.counts[f"{half}_triggered"]) for half in HALVES):
            raise SchemaMismatch("there are triggered images, but no ASR and RA")
        if self.specimens and self.specimens.keys() != {"clean", "triggered"}:
            raise SchemaMismatch("images are clean and triggered ones, or there are none")

    @classmethod
    def of(
        cls,
        result: CountedEvaluation,
        specimens: Mapping[str, Tensor] | None = None,
        edits: Edits | None = None,
    ) -> "StoredEvaluation":
        """Return what is stored of a result."""
        return cls(
            selection=result.selection,
            report=result.report,
            counts={
                **_cells("selection", result.selection_confusion),
                **_cells("report", result.report_confusion),
            },
            specimens=specimens or {},
            layers=() if edits is None else edits.layers,
            edits={} if edits is None else edits.by_layer,
        )


def _cells(half: str, confusion: Confusion) -> dict[str, Tensor]:
    clean, triggered = confusion.clean.nonzero(), confusion.triggered.nonzero()
    tables = {
        f"{half}_clean": [*clean.unbind(1), confusion.clean[*clean.unbind(1)]],
        f"{half}_triggered": [
            *(triggered[:, 0], confusion.targets[triggered[:, 0]], triggered[:, 1]),
            confusion.triggered[*triggered.unbind(1)],
        ],
    }
    return {name: _small(torch.stack(columns, dim=1)) for name, columns in tables.items()}


def _small(table: Tensor) -> Tensor:
    """Return whole numbers in as few bytes as hold them all."""
    fits = not len(table) or int(table.max()) <= torch.iinfo(torch.int16).max
    return table.to(torch.int16 if fits else torch.int32)


@dataclass(frozen=True, kw_only=True)
class StoredPace:
    """Seconds that items of a kind took, and the load that they went into."""

    seconds: Amount
    load: Amount


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored(Generic[T]):
    """A result in the store.

    Attributes:
        content: The result.
        seconds: What computing it took, the first time.
        study: Identifier of the study that computed it.
    """

    content: T
    seconds: float
    study: str


class Stage(Generic[T]):
    """A stage's results in a store.

    Attributes:
        name: Of the stage, in the store and in tables.
    """

    def __init__(self, name: str, kind: type[T]) -> None:
        self.name = name
        self._kind = kind

    def read(self, store: Store, key: str, model_spec: ModelSpec | None = None) -> Stored[T] | None:
        """Return a result, or None if there is no sound one.

        Args:
            store: Where it may be.
            key: Of the result.
            model_spec: Of the network that weights belong to.
        """
        return self._result(store.read(self.name, key), model_spec)

    def peek(self, store: Store, key: str) -> Stored[T] | None:
        """Return a result whose tensors have no numbers, or None if there is no sound one."""
        return self._result(store.peek(self.name, key), None)

    def write(
        self,
        store: Store,
        key: str,
        content: T,
        *,
        seconds: float = 0.0,
        study: str = "",
        model_spec: ModelSpec | None = None,
    ) -> None:
        """Store a result for good.

        Raises:
            SchemaMismatch: `read` would not find it.
            ResourceError: The store cannot be written to.
        """
        values, tensors = pack(content)
        entry = Entry(values=values, tensors=tensors, seconds=seconds, study=study)
        try:
            self._content(entry, model_spec)
        except SchemaMismatch as error:
            raise SchemaMismatch(f"the result of {self.name} cannot be stored: {error}") from None
        store.write(self.name, key, entry)

    def _result(self, entry: Entry | None, model_spec: ModelSpec | None) -> Stored[T] | None:
        if entry is None:
            return None
        try:
            content = self._content(entry, model_spec)
        except SchemaMismatch:
            return None
        return Stored(content=content, seconds=entry.seconds, study=entry.study)

    def _content(self, entry: Entry, model_spec: ModelSpec | None) -> T:
        content = unpack(self._kind, entry.values, entry.tensors)
        if model_spec is not None and isinstance(content, StoredWeights):
            content.check(model_spec)
        return content


HELPER = Stage("train_helper", StoredHelper)
VICTIM = Stage("train_victim", StoredVictim)
TRIGGER = Stage("trigger", StoredTensors)
ASCENT = Stage("unlearn", StoredAscent)
SCORES = Stage("score_neurons", StoredScores)
RELEARNING = Stage("relearn", StoredRelearning)
REPAIRED = Stage("repaired", StoredWeights)
EVALUATION = Stage("evaluate", StoredEvaluation)
PACE = Stage("pace", StoredPace)
_ALL = (HELPER, VICTIM, TRIGGER, ASCENT, SCORES, RELEARNING, REPAIRED, EVALUATION, PACE)
STAGES: Mapping[str, Stage[Any]] = {stage.name: stage for stage in _ALL}


@lru_cache
def stage_of_method(stage: str) -> Stage[StoredTensors]:
    """Return a stage of repair methods before their last one, which stores tensors."""
    return Stage(f"repair.{stage}", StoredTensors)


@lru_cache
def _shapes(model_spec: ModelSpec) -> Mapping[str, tuple[tuple[int, ...], bool]]:
    """Return the shape of each tensor of a network, and whether it holds real numbers."""
    state = sketch_of(model_spec).state_dict()
    return {name: (tuple(t.shape), t.is_floating_point()) for name, t in state.items()}
