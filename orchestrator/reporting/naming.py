"""What the page calls things: whatever tells them apart in this study, and no more."""

import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.reporting.results import Results, Scenario, Setting
from orchestrator.reporting.schema import Family

T = TypeVar("T")
_LONGEST_NUMBER = 8  # digits; what is longer was hardly typed


@dataclass(frozen=True, kw_only=True)
class Names:
    """Names of attacks, families and scenarios.

    Attributes:
        options: Per attack, the options in which its variants differ.
        families: The scenario axes, of poison ratio and target label, that vary.
    """

    options: Mapping[str, tuple[str, ...]]
    families: tuple[str, ...]

    def attack(self, family: Family) -> str:
        """Return the attack with the options that tell its variants apart."""
        chosen = json.loads(family.attack_options)
        told = [
            f"{name}={_plain(chosen[name])}"
            for name in self.options[family.attack]
            if name in chosen
        ]
        return f"{family.attack}({', '.join(told)})" if told else family.attack

    def details(self, family: Family) -> tuple[str, ...]:
        """Return dataset and architecture, poison ratio and target label where they vary."""
        words = {"poison_ratio": "poison ratio", "target_label": "target"}
        told = (f"{words[axis]} {getattr(family, axis)}" for axis in self.families)
        return (family.dataset, family.architecture, *told)

    def family(self, family: Family) -> str:
        return " · ".join((self.attack(family), *self.details(family)))

    def scenario(self, scenario: Scenario) -> str:
        return f"{self.family(scenario.family)} · seed {scenario.seed}"


def names_of(results: Results) -> Names:
    """Return how this study's things are called."""
    families = distinct(trial.scenario.family for trial in results.trials)
    variants: dict[str, list[dict[str, Any]]] = {}
    for attack, text in distinct((family.attack, family.attack_options) for family in families):
        variants.setdefault(attack, []).append(json.loads(text))
    return Names(
        options={attack: _differing(entries) for attack, entries in variants.items()},
        families=tuple(
            axis
            for axis in ("poison_ratio", "target_label")
            if len({getattr(family, axis) for family in families}) > 1
        ),
    )


def setting_text(setting: Setting) -> str:
    """Return a setting in the form of the pruning log: ``axis=value, axis=value``."""
    return ", ".join(f"{axis}={value_text(value)}" for axis, value in setting)


def value_text(value: str) -> str:
    """Return an axis value for a person: 0.30000000000000004 is 0.3."""
    try:
        return value if len(value) <= _LONGEST_NUMBER else f"{float(value):.6g}"
    except ValueError:
        return value


def distinct(values: Iterable[T]) -> list[T]:
    """Return each value once, in the order of first appearance."""
    return list(dict.fromkeys(values))


def in_order(values: Iterable[str]) -> list[str]:
    """Return the values of an axis once each: numbers by size, words as they come."""
    found = distinct(values)
    try:
        return sorted(found, key=float)
    except ValueError:
        return found


def printable(text: str) -> str:
    """Return `text` without control characters and others that no XML may hold."""
    if text.isprintable():  # which admits none of them, and is what texts nearly always are
        return text
    return "".join(char for char in text if unicodedata.category(char) not in {"Cc", "Cn", "Cs"})


def _differing(variants: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the options that not all variants give the same value."""
    options = distinct(name for variant in variants for name in variant)
    texts = {
        name: {json.dumps(variant.get(name), sort_keys=True) for variant in variants}
        for name in options
    }
    return tuple(name for name in options if len(texts[name]) > 1)


def _plain(value: Any) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value)
