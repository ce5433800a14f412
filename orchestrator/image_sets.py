"""The sets of images that runs rest on, as MLflow lists them."""

from typing import Any

from orchestrator.plan import Scenario, Trial
from orchestrator.records import Dataset, digest_of


class ImageSets:
    """Names the sets of scenarios and trials; what fixes a dataset's content is read once."""

    def __init__(self) -> None:
        self._identities: dict[Any, str] = {}

    def of_scenario(self, scenario: Scenario) -> tuple[Dataset, ...]:
        """Return what a victim was trained on, and what models are measured on."""
        dataset, facts = scenario.dataset, scenario.dataset.facts()
        identity = self._identity(dataset)
        told: dict[str, Any] = {}
        trained, tested = None, None
        if facts is not None:
            told = {"classes": facts.classes, "side": facts.side, "channels": facts.channels}
            trained, tested = sum(facts.train_counts), facts.test_count
        poison = {name: scenario.columns[name] for name in ("poison_ratio", "target_label")}
        return (
            Dataset(
                name=f"{dataset.label} poisoned by {scenario.poison.attack.name}",
                digest=_short([identity, scenario.columns]),
                context="training",
                facts={"images": trained, **told, **poison},
            ),
            Dataset(
                name=dataset.label,
                digest=_short([identity, "test"]),
                context="evaluation",
                facts={"images": tested, **told},
            ),
        )

    def of_trial(self, trial: Trial) -> tuple[Dataset, ...]:
        """Return the clean samples that the defender held."""
        dataset = trial.scenario.dataset
        drawn = {
            "clean_ratio": trial.hyperparameters.clean.clean_ratio,
            "defence_seed": trial.defence_seed,
        }
        digest = _short([self._identity(dataset), drawn])
        return (Dataset(name=dataset.label, digest=digest, context="defence", facts=drawn),)

    def _identity(self, dataset: Any) -> str:
        if dataset not in self._identities:
            self._identities[dataset] = digest_of([dataset.label, dataset.identity()])
        return self._identities[dataset]


def _short(content: Any) -> str:
    return digest_of(content)[:16]
