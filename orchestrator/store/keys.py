"""The names of results, known before anything is computed."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from functools import lru_cache
from math import isfinite
from typing import Any, TypeVar

import torch

from orchestrator.plan.plan import Scenario, Trial
from orchestrator.plan.resources import Compute
from ulrl import evaluation, poisoning, relearning, scoring, unlearning
from ulrl import victim as victim_stage
from ulrl.attacks import HELPER_VERSION, Attack, Helper
from ulrl.datasets import Dataset, DatasetError
from ulrl.interchange import ImportRefused, fingerprint
from ulrl.methods import RepairStage, Tensors
from ulrl.models import Architecture, WeightsError
from ulrl.plugins import source_of
from ulrl.poison import Poison
from ulrl.precision import Precision
from ulrl.recipes import VictimRecipe
from ulrl.relearning import RelearnConfig
from ulrl.scoring import ScoreConfig
from ulrl.supervised import VictimConfig
from ulrl.unlearning import UnlearnConfig
from ulrl.weight_selection import Suspects

KERNELS = 2  # bump when what GPUs compute by changes, and with it last bits there

Config = TypeVar("Config", VictimConfig, UnlearnConfig, RelearnConfig)


def result_key(stage: str, version: int, config: Any, inputs: Mapping[str, str]) -> str:
    """Name the result of a stage before it is computed.

    The key covers the stage and its version, every field of `config` (defaults too, so
    that editing a default cannot revive an old result) and the keys of its inputs. Fields
    marked ``runtime`` (where a dataset lies) are left out; so are those marked ``added`` where
    they have their default, for results that are older than they.

    Raises:
        TypeError: Something in `config` has no canonical form.
    """
    recipe = {
        "stage": stage,
        "version": version,
        "config": plain(config),
        "inputs": dict(sorted(inputs.items())),
    }
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it, with the type's name beside each dataclass.

    A class that was renamed has its first name as `key_name`, so that stored results are found.
    """
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: plain(item) for name, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not field.metadata.get("runtime", False)
            and not (field.metadata.get("added") and getattr(value, field.name) == field.default)
        }
        return {"type": getattr(value, "key_name", type(value).__name__), **fields}
    raise TypeError(f"{value!r} has no canonical form, so it cannot be part of a key")


def _poison(scenario: Scenario) -> Poison:
    """Return a scenario's poison with what its attack's defaults mean at the images' size."""
    info = scenario.dataset.info()
    if info is None:  # of a file that is not there, and then there is no key either
        return scenario.poison
    return replace(scenario.poison, attack=scenario.poison.attack.resolved(info.side))


def _revision(made: Attack | Helper) -> dict[str, Any]:
    """Return what a change of one attack's or helper's code adds to its keys; at first nothing."""
    version = {} if made.version == 1 else {"version": made.version}
    return {**version, **_source(made)}


def _source(made: object) -> dict[str, str]:
    """Return what the text of a plugin adds to the keys of what it defines."""
    source = source_of(made)
    return {} if source is None else {"source": source}


def _sources_of_parts(stage: RepairStage) -> dict[str, list[str]]:
    """Return what the texts of other plugins add that define a part of a stage, say its tuner."""
    parts = [getattr(stage, part.name) for part in dataclasses.fields(stage)]  # type: ignore[arg-type]
    sources = {source_of(part) for part in parts} - {None, source_of(stage)}
    return {"sources": sorted(filter(None, sources))} if sources else {}


def _named(made: Dataset | Architecture) -> dict[str, Any]:
    return {"options": made, **made.identity(), **_source(made)}


def _digest_of_tensors(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=64)  # the trials of a scenario share them
def digest_of(suspects: Suspects) -> Mapping[str, Any]:
    """Return what tells two choices of suspects apart, as plain values."""
    layers = [
        {
            "weight": layer.weight,
            "rows": layer.rows,
            "reset": hashlib.sha256(layer.reset.numpy().tobytes()).hexdigest(),
        }
        for layer in suspects.layers
    ]
    return {"layers": layers, "reset_bias": suspects.reset_bias}


def settled(config: Config, compute: Compute) -> Config:
    """Return a configuration whose precision is what `compute` makes of it.

    On a CPU two names for one arithmetic are one key. Whether a GPU has bf16 is for the
    worker to know, so there `auto` stands.
    """
    device = torch.device(compute.device)
    changes: dict[str, Any] = {
        field.name: getattr(config, field.name).on(device)
        for field in dataclasses.fields(config)
        if isinstance(getattr(config, field.name), Precision)
        and (compute.device == "cpu" or getattr(config, field.name) is not Precision.AUTO)
    }
    return replace(config, **changes)


class CacheKeys:
    """The keys of a study's results on one kind of machine.

    Attributes:
        compute: The kind of machine.
    """

    def __init__(self, victim: VictimRecipe, compute: Compute) -> None:
        self.compute = compute
        self._where = plain(compute) | ({} if compute.device == "cpu" else {"kernels": KERNELS})
        self._victim = victim
        self._known: dict[Any, str] = {}
        self._parts: dict[Any, Any] = {}

    def victim(self, scenario: Scenario) -> str:
        """Return the key of a scenario's victim."""
        return self._once(("victim", scenario.number), lambda: self._victim_key(scenario))

    def helper(self, scenario: Scenario, helper: Helper) -> str:
        """Return the key of what a scenario's attack has trained beforehand."""
        name = ("helper", scenario.number, helper)
        return self._once(name, lambda: self._helper_key(scenario, helper))

    def ascent(self, trial: Trial) -> str:
        """Return the first part of the key of a trial's ascent; its floor is the rest."""
        parts = trial.hyperparameters
        name = ("ascent", trial.scenario.number, trial.defence_seed, parts.clean, parts.unlearn)

        def make() -> str:
            config = {"unlearn": settled(parts.unlearn, self.compute), **self._defence(trial)}
            inputs = {"victim": self.victim(trial.scenario)}
            return result_key("unlearn", unlearning.VERSION, config, inputs)

        return self._once(name, make)

    def scores(self, trial: Trial, config: ScoreConfig) -> str:
        """Return the key of the scores that a rule gives to a trial's ascent."""
        ascent = self.ascent(trial)
        return self._once(
            ("scores", ascent, config),
            lambda: result_key("score_neurons", scoring.VERSION, config, {"unlearn": ascent}),
        )

    def relearn(self, trial: Trial, suspects: Suspects) -> str:
        """Return the key of a trial's relearning, which knows phase 1 by its suspects only."""
        effective = trial.hyperparameters.relearn.effective(suspects)
        config = {
            "relearn": self._plain(settled(effective, self.compute)),
            "suspects": digest_of(suspects),
            **self._defence(trial),
        }
        inputs = {"victim": self.victim(trial.scenario)}
        return result_key("relearn", relearning.VERSION, config, inputs)

    def repair(
        self,
        trial: Trial,
        name: str,
        stage: RepairStage,
        before: str,
        reads: Tensors | None,
        *,
        model: str | None = None,
        samples: bool = True,
    ) -> str:
        """Return the key of a stage of a repair method other than ULRL, or of an audit.

        An audit of a victim shares stages with repair methods.

        Args:
            trial: For its victim and clean samples.
            name: Of the stage.
            stage: With its configuration.
            before: Key of the stage before, "" for the first.
            reads: What it reads of that stage; None is all of it.
            model: Key of the network that is audited; None is the victim.
            samples: Whether an audit takes clean samples.
        """
        defence = self._defence(trial) if samples else {"compute": self._where}
        config = {"stage": stage, **_source(stage), **_sources_of_parts(stage), **defence}
        inputs = {"victim": model or self.victim(trial.scenario)}
        if before:
            inputs["before"] = before if reads is None else _digest_of_tensors(reads)
        return result_key(name, stage.version, config, inputs)

    def evaluation(self, model: str) -> str:
        """Return the key of the evaluation of the model of a key."""
        config = {"compute": self._where}
        return self._once(
            ("evaluate", model),
            lambda: result_key("evaluate", evaluation.VERSION, config, {"model": model}),
        )

    def changed(self, scenario: Scenario) -> bool:
        """Whether a file that a scenario names has changed since the key of its victim was made."""
        try:
            return CacheKeys(self._victim, self.compute).victim(scenario) != self.victim(scenario)
        except (DatasetError, ImportRefused, WeightsError):
            return True  # it is gone, or no longer such a file

    def _victim_key(self, scenario: Scenario) -> str:
        if scenario.source is not None:
            return self._imported_key(scenario, scenario.source)
        config = {
            **self._kind(scenario),
            **self._pictures(scenario),
            "poison": _poison(scenario),
            "attack": {**scenario.poison.attack.identity(), **_revision(scenario.poison.attack)},
        }
        inputs = {}
        if scenario.helpers:
            inputs["helper"] = self.helper(scenario, scenario.helpers[-1])
        return result_key("train_victim", victim_stage.VERSION, config, inputs)

    def _helper_key(self, scenario: Scenario, helper: Helper) -> str:
        """Return a key without what the helper does not look at, so that others share it."""
        config = {
            "helper": helper,
            **helper.identity(),
            **_revision(helper),
            **(self._kind(scenario) if helper.of_victim else {}),
            **self._pictures(scenario),
        }
        inputs = {"needs": self.helper(scenario, helper.needs)} if helper.needs else {}
        return result_key("train_helper", HELPER_VERSION, config, inputs)

    def _kind(self, scenario: Scenario) -> dict[str, Any]:
        architecture = scenario.architecture
        victim = self._victim.config(scenario.dataset.name, scenario.poison.attack.name)
        return {
            "victim": settled(victim, self.compute),
            "architecture": _named(architecture),
        }

    def _pictures(self, scenario: Scenario) -> dict[str, Any]:
        return {
            "dataset": _named(scenario.dataset),
            "treatment": scenario.preprocessing,
            "seed": scenario.seed,
            "compute": self._where,
        }

    def _imported_key(self, scenario: Scenario, source: str) -> str:
        """Return the key of a victim that is what its files hold."""
        config = {
            "import": fingerprint(source),
            "architecture": scenario.architecture,
            **_source(scenario.architecture),
            "dataset": _named(scenario.dataset),
            "treatment": scenario.preprocessing,
            "poison": _poison(scenario),
            "attack": scenario.poison.attack.identity(),
            "compute": self._where,
        }
        return result_key("import_victim", victim_stage.VERSION, config, {})

    def _defence(self, trial: Trial) -> dict[str, Any]:
        """Return what every stage of a defence depends on, its own configuration apart."""
        return {
            "compute": self._where,
            "monitor": poisoning.MONITOR_COUNT,
            "clean": self._plain(trial.hyperparameters.clean),
            "defence_seed": trial.defence_seed,
        }

    def _once(self, name: Any, make: Callable[[], str]) -> str:
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]

    def _plain(self, part: Any) -> Any:
        """Return a part of a configuration as JSON holds it; trials share most parts."""
        if part not in self._parts:
            self._parts[part] = plain(part)
        return self._parts[part]
