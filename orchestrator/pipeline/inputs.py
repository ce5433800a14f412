"""What stages are made from: images, test sets, imported victims, loaded once per worker."""

from collections.abc import Iterator
from functools import lru_cache

from orchestrator.plan.jobs import Progress
from orchestrator.plan.plan import Scenario, Trial
from ulrl.attacks import Learned
from ulrl.clean import CleanSamples, draw_clean_samples
from ulrl.datasets import Dataset, ImageSet
from ulrl.interchange import ImportedVictim, check_scenario, imported_test_sets, load_victim
from ulrl.models import ModelSpec
from ulrl.poisoning import TestSets, make_test_sets

MEGABYTE = 1_000_000


class StageInputs:
    """The last few datasets and imports that a worker needed."""

    def __init__(self) -> None:
        self._ready: set[Dataset] = set()
        self.images = lru_cache(maxsize=2)(_load)
        self.imported = lru_cache(maxsize=1)(self._import)

    def fetch(self, dataset: Dataset) -> Iterator[Progress]:
        """Bring a dataset to this machine if it is not here, step by step."""
        if dataset not in self._ready:
            for part in dataset.fetch():
                unit = MEGABYTE if part.unit == "bytes" else 1
                done, total = part.done // unit, part.total // unit
                yield Progress(stage=part.what, epoch=done, epochs=total)
            self._ready.add(dataset)

    def model_spec(self, scenario: Scenario) -> ModelSpec:
        """Return what a scenario's network is built from."""
        return model_spec_of(scenario, self.images(scenario.dataset))

    def clean(self, trial: Trial) -> CleanSamples:
        """Return a trial's clean samples."""
        images = self.images(trial.scenario.dataset)
        return draw_clean_samples(trial.hyperparameters.clean, images, trial.defence_seed)

    def tests(self, scenario: Scenario, learned: Learned) -> TestSets:
        """Return a scenario's test sets, stamped by what its attack learned, or imported."""
        images = self.images(scenario.dataset)
        if scenario.source is None:
            return make_test_sets(scenario.poison, images, scenario.seed, learned)
        return imported_test_sets(scenario.poison, images, self.imported(scenario).triggered)

    def _import(self, scenario: Scenario) -> ImportedVictim:
        return import_victim(scenario, self.model_spec(scenario))


def import_victim(scenario: Scenario, model_spec: ModelSpec) -> ImportedVictim:
    """Return a scenario's pre-trained victim and its triggered test images.

    Raises:
        ImportRefused: The files are not there, not sound, or not of this scenario.
    """
    if scenario.source is None:
        raise RuntimeError(f"{scenario.text} has a victim of its own")
    imported = load_victim(scenario.source, model_spec)
    check_scenario(
        imported,
        architecture_name=scenario.architecture.name,
        dataset_name=scenario.dataset.name,
        poison=scenario.poison,
        normalised=scenario.normalisation is not None,
    )
    return imported


def model_spec_of(scenario: Scenario, images: ImageSet) -> ModelSpec:
    """Return what a scenario's network is built from."""
    _, channels, side, _ = images.train_images.shape
    return ModelSpec(
        architecture=scenario.architecture,
        classes=images.classes,
        channels=channels,
        side=side,
        preprocessing=scenario.preprocessing,
    )


def _load(dataset: Dataset) -> ImageSet:
    return dataset.load()
