"""Scenarios, settings and trials of a study, and the order in which they are run."""

import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from orchestrator.plan.columns import METHOD, NAMED_SUSPECTS, SETTING
from orchestrator.plan.labels import DAGGER, ORACLE, scenario_text, telling
from orchestrator.spec.model import (
    FIRST_SETTINGS,
    AttackChoice,
    Grid,
    Normalisation,
    Study,
    attack_options,
    holds,
    import_path,
    is_of_ulrl,
)
from orchestrator.spec.space import DrawnMethod, Space, Values, identity, is_open
from ulrl.attacks import Helper
from ulrl.attacks.imported import Imported
from ulrl.audits import Audit
from ulrl.datasets import Dataset, Preprocessing
from ulrl.hyperparameters import Hyperparameters, assemble, preset_values
from ulrl.methods import METHODS, ULRL, RepairMethod
from ulrl.models import Architecture
from ulrl.poison import Poison
from ulrl.registry import options_of
from ulrl.scoring import TARGET

NO_VALUES = ("preset", "defence_seed", "repair")  # setting axes that are no hyper-parameters
# Of axes that have others than themselves.
_COLUMNS = {"repair": METHOD, "suspects": (NAMED_SUSPECTS,)}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What makes a victim."""

    number: int
    choice: AttackChoice
    dataset: Dataset
    architecture: Architecture
    poison: Poison
    seed: int
    source: str | None = None  # where a pre-trained victim lies; None: it is trained
    normalisation: Normalisation | None = None  # a pre-trained victim's, if the study says so

    @property
    def benign(self) -> bool:
        """Whether there is no attack: the victim is a model trained on clean images."""
        return self.poison.benign

    @cached_property
    def _poisoning(self) -> dict[str, Any]:
        """What the attacker chose; nothing without one."""
        names = ("poison_ratio", "target_label")
        return {name: None if self.benign else getattr(self.poison, name) for name in names}

    @property
    def point(self) -> dict[str, Any]:
        """The entry or value of each scenario axis."""
        return {
            "attack": self.choice,
            "dataset": self.dataset,
            "architecture": self.architecture,
            **self._poisoning,
            "seed": self.seed,
        }

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become the network's input."""
        own = self.dataset.preprocessing
        return own if self.normalisation is None else self.normalisation.of(own)

    @cached_property
    def columns(self) -> dict[str, Any]:
        """The columns of the results that name this scenario."""
        return {
            "attack": self.choice.attack.name,
            "attack_options": json.dumps(attack_options(self.choice), sort_keys=True),
            "dataset": self.dataset.label,
            "architecture": self.architecture.label,
            **self._poisoning,
            "seed": self.seed,
        }

    @cached_property
    def helpers(self) -> tuple[Helper, ...]:
        """What is trained before the victim, what is needed first at the front."""
        helper = None if self.source is not None else self.poison.attack.helper(self.poison)
        chain: list[Helper] = []
        while helper is not None:
            chain.insert(0, helper)
            helper = helper.needs
        return tuple(chain)

    @property
    def text(self) -> str:
        """The whole scenario in one line."""
        return scenario_text(self.columns)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value for each setting axis that the study file names."""

    number: int
    values: Mapping[str, Any]
    text: str  # the values that differ among settings, in one line for people


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of the grid: scenario × setting."""

    # Of a grid, the place in the plan and among the results' rows; where settings are drawn, the
    # setting's number × scenarios + the scenario's.
    number: int
    scenario: Scenario
    setting: Setting
    hyperparameters: Hyperparameters  # resolved: preset, dataset and setting together
    defence_seed: int  # resolved: the setting's, or the scenario's seed
    method: RepairMethod | None = None  # None is ULRL

    @property
    def name(self) -> str:
        """A short name for logs and files."""
        return f"trial-{self.number:05d}"

    @property
    def method_name(self) -> str:
        """The name of the repair method, with the mark of an oracle's settings."""
        return _title(self.method, self.setting.values)

    @property
    def is_oracle(self) -> bool:
        """Whether no defence can do that: the ASR chooses a cut, or the rows are named."""
        return self.method_name.endswith(DAGGER)

    @cached_property
    def key(self) -> str:
        """What names the trial in MLflow, whatever its number in a changed grid."""
        values = {name: str(value) for name, value in self.setting.values.items()}
        point = {**self.scenario.columns, **values, "defence_seed": self.defence_seed}
        return json.dumps(point, sort_keys=True)


def trial_of(
    study: Study,
    number: int,
    scenario: Scenario,
    setting: Setting,
    resolved: dict[tuple[str, Any], Hyperparameters],
) -> Trial:
    """Return a point of the study.

    `resolved` keeps the setting's values by dataset and named suspects: of ``target`` they are
    the scenario's.
    """
    dataset, values = scenario.dataset.name, setting.values
    method = method_of(values)
    named = values.get("suspects")
    if named == TARGET:
        named = (scenario.poison.target_label,)
    if (dataset, named) not in resolved:
        preset = preset_values(values.get("preset") or study.preset, dataset)
        own = {name: value for name, value in values.items() if name not in NO_VALUES}
        own |= {"suspects": named} if "suspects" in own else {}
        values_of = own if method is None else _of_samples(own)
        resolved[dataset, named] = assemble(preset | values_of)
    seed = values.get("defence_seed")
    return Trial(
        number=number,
        scenario=scenario,
        setting=setting,
        hyperparameters=resolved[dataset, named],
        defence_seed=scenario.seed if seed is None else seed,
        method=None if method is None else method.resolved(dataset),
    )


def method_of(values: Values) -> RepairMethod | None:
    """Return the repair method of a setting; None is ULRL."""
    method = values.get("repair")
    return None if method is None or method.name == ULRL else method


def name_of_method(values: Values) -> str:
    """Return the name of a setting's repair method."""
    method = method_of(values)
    return ULRL if method is None else method.name


def options_text(method: RepairMethod | Audit) -> str:
    """Return the options of a method or an audit that differ from their defaults, as JSON.

    A tuner is a text, as its label has it.
    """
    return json.dumps(options_of(method), sort_keys=True, default=str)


def _of_samples(values: Values) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not is_of_ulrl(name)}


def _narrowed(values: Values) -> Values:
    """Return a setting without ULRL's own values, if another method is to repair by it."""
    if method_of(values) is None:
        return values
    return {name: None if is_of_ulrl(name) else value for name, value in values.items()}


def is_left_out(study: Study, scenario: Scenario, setting: Setting | None) -> bool:
    """Whether a trial is left out; without a setting, whether all of a scenario's are."""
    point = scenario.point | ({} if setting is None else dict(setting.values))
    return any(
        holds(one.conditions, point)
        for one in study.exclude
        if setting is not None or not one.conditions.keys() & study.grid.settings
    )


def _setting(study: Study, number: int, values: Values) -> Setting:
    """Return a setting; its text has the values that differ, as ``alpha=0.7, layers=all``."""
    axes = study.grid.settings
    applies = values if method_of(values) is None else _of_samples(values)
    varied = {name: value for name, value in applies.items() if is_open(axes[name])} or applies
    text = ", ".join(f"{name}={_plainly(name, value)}" for name, value in varied.items())
    return Setting(number=number, values=dict(values), text=text or "the preset")


def _title(method: RepairMethod | None, values: Values) -> str:
    """Return what a method's settings are compared under: its name, an oracle's apart."""
    if method is None:
        return ULRL + (DAGGER if values.get("suspects") is not None else "")
    return method.name + (DAGGER if getattr(method, "rule", None) == ORACLE else "")


def _plainly(name: str, value: Any) -> str:
    if name == "repair" and getattr(value, "rule", None) == ORACLE:
        return f"{value}{DAGGER}"
    if name == "suspects" and value is not None:
        return f"{value if value == TARGET else json.dumps(value)}{DAGGER}"
    if value is None:
        return "seed" if name == "defence_seed" else "none"
    return json.dumps(value) if isinstance(value, tuple) else str(value)


@dataclass(kw_only=True)
class Plan:
    """Everything a study will do, in order.

    The settings of a grid are all there from the start. Where a sampler draws them the plan
    grows, setting by setting; nothing that is in it changes.
    """

    study: Study
    scenarios: tuple[Scenario, ...]
    settings: list[Setting]  # by their number
    trials: list[Trial]  # scenario by scenario, as in the file; drawn ones setting by setting
    # As decisions meet them: scenarios shuffled once, attacks spread, so that early evidence is
    # about all of them; the preset's own setting first.
    scenario_order: tuple[int, ...]
    setting_order: list[int]

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The names of the repair methods, as in the file; an oracle's settings are one apart."""
        entries, named = (self.study.grid.settings.get(axis) for axis in ("repair", "suspects"))
        names = [
            _title(method_of({"repair": entry}), {"suspects": suspects})
            for entry in (entries if isinstance(entries, tuple) else (None,))
            for suspects in (named if isinstance(named, tuple) else (None,))
        ]
        return tuple(dict.fromkeys(names))

    @property
    def settings_of_methods(self) -> Counter[str]:
        """How many settings each method has."""
        every = (setting.values for setting in self.settings)
        return Counter(_title(method_of(values), values) for values in every)

    @cached_property
    def by_place(self) -> dict[tuple[int, int], Trial]:
        """Trials by (setting number, scenario number); excluded pairs are absent."""
        return {(t.setting.number, t.scenario.number): t for t in self.trials}

    def trials_of(self, setting: int) -> list[Trial]:
        """Return a setting's trials, by its number, in the order in which decisions meet them."""
        places = ((setting, scenario) for scenario in self.scenario_order)
        return [self.by_place[place] for place in places if place in self.by_place]

    @property
    def rows(self) -> list[Trial]:
        """Trials in the order of the results' rows: scenario by scenario."""
        return sorted(self.trials, key=lambda t: (t.scenario.number, t.setting.number))

    @property
    def most_settings(self) -> int:
        """How many settings there are, or will be if the sampler finds as many."""
        return len(self.settings) if self.study.search is None else sum(self.to_draw.values())

    @cached_property
    def to_draw(self) -> dict[str, int]:
        """How many settings of each repair method are drawn: as many as asked for and there are."""
        search = self.study.search
        if search is None:
            return {}
        spaces = self.study.grid.spaces
        return {method: min(search.settings, space.size) for method, space in spaces.items()}

    @property
    def most_trials(self) -> int:
        """How many trials there are, or will be if none is excluded from now on."""
        to_come = self.most_settings - len(self.settings)
        return len(self.trials) + to_come * len(self.scenarios)

    @property
    def planned_trials(self) -> int:
        """The trials of a grid; where settings are drawn, as many as there can be."""
        if self.study.search is None:
            return len(self.trials)
        return self.most_settings * len(self.scenarios)

    def with_setting(self, number: int, values: Values) -> list[Trial]:
        """Return the trials that a drawn setting has in this plan; the plan stays as it is."""
        setting = _setting(self.study, number, values)
        known: dict[tuple[str, Any], Hyperparameters] = {}
        first = number * len(self.scenarios)
        return [
            trial_of(self.study, first + scenario.number, scenario, setting, known)
            for scenario in self.scenarios
            if not is_left_out(self.study, scenario, setting)
        ]

    def grow(self, values: Values) -> list[Trial]:
        """Take in a setting that was drawn and return its trials, unless none are left of it."""
        trials = self.with_setting(len(self.settings), values)
        if trials:
            self.settings.append(trials[0].setting)
            self.setting_order.append(trials[0].setting.number)
            self.trials += trials
            self.by_place.update({(t.setting.number, t.scenario.number): t for t in trials})
        return trials

    @cached_property
    def _constant(self) -> frozenset[str]:
        """Columns in which scenarios do not differ; the attack is always worth naming."""
        columns = [scenario.columns for scenario in self.scenarios]
        return frozenset(
            name
            for name in columns[0]
            if name != "attack" and len({column[name] for column in columns} - {None}) <= 1
        )

    def family_of(self, scenario: Scenario) -> str:
        """Return what tells a scenario from others of this plan, but for the seed."""
        return scenario_text(scenario.columns, self._constant | {"seed"})

    def name_of(self, scenario: Scenario) -> str:
        """Return what tells a scenario from the others of this plan."""
        return scenario_text(scenario.columns, self._constant)

    @property
    def further_columns(self) -> tuple[str, ...]:
        """Columns of setting axes that not every study has."""
        axes = [name for name in self.study.grid.settings if name not in FIRST_SETTINGS]
        return tuple(column for axis in axes for column in _COLUMNS.get(axis, (axis,)))

    def point(self, trial: Trial) -> dict[str, Any]:
        """Return the columns of the results that say which trial it is."""
        parts, method = trial.hyperparameters, trial.setting.values.get("repair")
        ulrl = trial.method is None
        point = {
            **trial.scenario.columns,
            "defence_seed": trial.defence_seed,
            "clean_ratio": parts.clean.clean_ratio,
            "unlearn_threshold": parts.score.unlearn_threshold if ulrl else None,
            "reinit_ratio": parts.reset.reinit_ratio if ulrl else None,
        }
        for axis in self.further_columns:
            if method is not None and axis in _COLUMNS["repair"]:
                point[axis] = method.name if axis == "repair" else options_text(method)
                continue
            value = trial.setting.values["suspects" if axis == NAMED_SUSPECTS else axis]
            point[axis] = json.dumps(value) if isinstance(value, tuple) else value
        return point

    @cached_property
    def _varied_options(self) -> Mapping[str, tuple[str, ...]]:
        """The options in which a method's entries differ, by its name."""
        axis = self.study.grid.settings.get("repair", ())
        entries: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for entry in axis if isinstance(axis, tuple) else ():
            drawn = isinstance(entry, DrawnMethod)
            given = dict(entry.fixed + entry.ranges) if drawn else options_of(entry)
            entries[entry.name].append(given)
            if drawn:
                entries[entry.name].append(dict(entry.fixed))  # so that what is drawn varies
        missing = object()
        return {
            name: tuple(
                option
                for option in dict.fromkeys(itertools.chain(*found))
                if any(one.get(option, missing) != found[0].get(option, missing) for one in found)
            )
            for name, found in entries.items()
        }

    def defaults(self, setting: Setting) -> str:
        """Return the options of a setting's method that vary and that it does not give, as JSON.

        With them a text of the setting says which of several values it has. One that is another
        on each dataset is left out, and so is one that means nothing beside the others. Where
        settings are drawn, a default that is None is too: one may be drawn that equals it.
        """
        method = setting.values.get("repair")
        if method is None:
            return "{}"
        given = options_of(method)
        varied = self._varied_options.get(method.name, ())
        known = [{option: getattr(method, option) for option in varied}]
        if self.study.search is None:
            names = sorted({dataset.name for dataset in self.study.grid.datasets})
            known = [method.resolved(name).values_of(varied) for name in names]
        usual = {
            option: value
            for option, value in known[0].items()
            if option not in given
            and value is not None
            and all(one[option] == value for one in known)
        }
        return json.dumps(usual, sort_keys=True, default=str)

    def varied(self) -> tuple[str, ...]:
        """Return the axes that tell settings apart; see `orchestrator.plan.labels.telling`."""
        points = [(trial.scenario.number, self.point(trial)) for trial in self.trials]
        return telling((*SETTING, *self.further_columns), points)


def make_plan(study: Study, drawn: Iterable[Values] = ()) -> Plan:
    """Expand the grid of `study`; the same study gives the same plan anywhere.

    Args:
        study: With a `search`, its settings are those of `drawn`, and others may follow.
        drawn: Settings drawn before, in that order.
    """
    searched, names = study.search is not None, tuple(study.grid.settings)
    axes = [axis for axis in study.grid.settings.values() if isinstance(axis, tuple)]
    combinations = (dict(zip(names, values, strict=True)) for values in itertools.product(*axes))
    distinct: Iterable[Values] = () if searched else combinations
    if "repair" in names and not searched:
        apart = {identity(values): values for values in map(_narrowed, combinations)}.values()
        order = {method: place for place, method in enumerate(axes[names.index("repair")])}
        distinct = sorted(apart, key=lambda values: order[values["repair"]])
    settings = [_setting(study, number, values) for number, values in enumerate(distinct)]
    resolved: list[dict[tuple[str, Any], Hyperparameters]] = [{} for _ in settings]
    scenarios: list[Scenario] = []
    trials: list[Trial] = []
    for found in _scenarios(study):
        scenario = replace(found, number=len(scenarios))
        remaining = [setting for setting in settings if not is_left_out(study, scenario, setting)]
        if not remaining and not (searched and not is_left_out(study, scenario, None)):
            continue
        scenarios.append(scenario)
        for setting in remaining:
            known = resolved[setting.number]
            trials.append(trial_of(study, len(trials), scenario, setting, known))
    own = own_setting(study)
    plan = Plan(
        study=study,
        scenarios=tuple(scenarios),
        settings=settings,
        trials=trials,
        scenario_order=spread(scenarios),
        setting_order=sorted(range(len(settings)), key=lambda n: settings[n].values != own),
    )
    found_of: Counter[str] = Counter()
    for values in drawn if searched else ():
        method = name_of_method(values)
        if found_of[method] < plan.to_draw[method] and plan.grow(values):
            found_of[method] += 1
    return plan


def spread(scenarios: list[Scenario]) -> tuple[int, ...]:
    """Return scenario numbers shuffled by a fixed seed, the attacks taking turns.

    Those without an attack are last: they are no evidence for or against a setting.
    """
    source = random.Random("order of scenarios")  # noqa: S311 - no secret depends on it
    groups: dict[str, list[int]] = defaultdict(list)
    for scenario in scenarios:
        columns = scenario.columns
        if not scenario.benign:
            groups[f"{columns['attack']} {columns['attack_options']}"].append(scenario.number)
    queues = list(groups.values())
    source.shuffle(queues)
    for queue in queues:
        source.shuffle(queue)
    rounds = itertools.zip_longest(*queues)
    attacked = [number for turn in rounds for number in turn if number is not None]
    return (*attacked, *(scenario.number for scenario in scenarios if scenario.benign))


def _scenarios(study: Study) -> list[Scenario]:
    grid = study.grid
    product = itertools.product(
        grid.attacks, grid.datasets, grid.architectures, grid.target_labels, grid.seeds
    )
    return [
        _with_source(
            study,
            Scenario(
                number=0,
                choice=choice,
                dataset=dataset,
                architecture=architecture,
                poison=choice.poison(ratio, target),
                seed=seed,
            ),
        )
        for choice, dataset, architecture, target, seed in product
        if not choice.attack.benign or target == grid.target_labels[0]
        for ratio in _ratios(choice, grid)
    ]


def _ratios(choice: AttackChoice, grid: Grid) -> tuple[float, ...]:
    """Return the poison ratios that an entry of the attack axis is combined with."""
    if choice.attack.benign:
        return grid.poison_ratios[:1]  # any one: nothing is poisoned
    return grid.poison_ratios if choice.poison_ratio is None else (choice.poison_ratio,)


def _with_source(study: Study, scenario: Scenario) -> Scenario:
    """Return a scenario with the place its victim is imported from, if victims are."""
    point, attack = scenario.point, scenario.choice.attack
    for entry in study.imports:
        if holds(entry.conditions, point):
            name = attack.name
            if entry.backdoorbench and isinstance(attack, Imported):
                name = attack.of
            names = point | {
                "attack": name,
                "dataset": scenario.dataset.name,
                "architecture": scenario.architecture.called,
            }
            source = import_path(entry, names)
            return replace(scenario, source=source, normalisation=entry.normalisation)
    return scenario


def own_setting(study: Study, method: str = ULRL) -> dict[str, Any] | None:
    """Return a method's own setting: as near as the axes with a choice allow, if they do.

    Of ULRL it is the preset's; of others, their defaults.
    """
    own = preset_values(study.preset, study.grid.datasets[0].name)
    own |= {"preset": study.preset, "defence_seed": None}
    space = Space(study.grid.settings) if method == ULRL else study.grid.spaces[method]
    with suppress(TypeError):  # an option of a plugin's method may have no default
        own["repair"] = METHODS[method]()
    return space.nearest(own) if "repair" in own else None
