"""The sampler against plain Optuna, and what it knows after a restart."""

import warnings
from typing import Any

import pytest
from optuna.trial import TrialState

from orchestrator.search.samplers import SAMPLERS, Sampler
from orchestrator.spec.model import Objective, Search
from orchestrator.spec.space import Range, Space, Values, identity, plainly
from ulrl.layers import Layers

AXES: dict[str, Any] = {
    "alpha": Range(low=0.1, high=2.0),
    "relearn_lr": Range(low=1e-4, high=1.0, log=True),
    "max_suspects": Range(low=1, high=5),
    "layers": (Layers.HEAD, Layers.ALL),
    "unlearn_milestones": ((5,), (5, 10)),
    "relearn_epochs": (7,),
}
FEW: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 4},
    "gp": {"n_startup_trials": 4},
    "cmaes": {"popsize": 4},
}


def sampler_of(name: str, objective: Objective = Objective.DER, **other: Any) -> Sampler:
    arguments = FEW.get(name, {})
    return Sampler(Search(sampler=name, settings=50, arguments=arguments, **other), AXES, objective)


def loss(values: Values) -> float:
    """Return how far a setting is from the best."""
    return abs(float(values["alpha"]) - 1.5) + (values["layers"] is Layers.HEAD)


def drawn(sampler: Sampler, first: int, count: int, sign: float = -1.0) -> list[dict[str, Any]]:
    """Draw settings one after the other, telling what each reached."""
    found = []
    for number in range(first, first + count):
        values = next(sampler.proposals(number, 1))
        sampler.enter(number, values)
        sampler.tell(number, [sign * loss(values)], whole=True)
        found.append(values)
    return found


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_drawn_belongs_to_the_axes(name: str) -> None:
    space = Space(AXES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = drawn(sampler_of(name), 0, 10)
    assert all(space.read(plain(values)) == values for values in found)
    assert len({identity(values) for values in found}) == 10
    assert {values["layers"] for values in found} == {Layers.HEAD, Layers.ALL}


def plain(values: Values) -> dict[str, Any]:
    return {name: plainly(value) for name, value in values.items()}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_new_sampler_that_is_told_all_goes_on_as_the_old_one(name: str) -> None:
    """CMA-ES keeps its state with what it drew, so a new one starts its generation again."""
    old = sampler_of(name)
    before = drawn(old, 0, 9)
    new = sampler_of(name)
    for number, values in enumerate(before):
        new.enter(number, values)
        new.tell(number, [-loss(values)], whole=True)
    known = {identity(values) for values in before}  # a sequence begins anew, and passes these over
    follow = [next(v for v in s.proposals(9, 30) if identity(v) not in known) for s in (old, new)]
    if name == "cmaes":
        assert Space(AXES).read(plain(follow[1])) == follow[1]
    else:
        assert follow[0] == follow[1]


@pytest.mark.parametrize("objective", [Objective.DER, Objective.ASR])
def test_tpe_finds_the_better_half_whichever_way_is_better(objective: Objective) -> None:
    sign = -1.0 if objective.maximise else 1.0
    found = drawn(sampler_of("tpe", objective), 0, 40, sign)
    early, late = (sum(map(loss, part)) / 15 for part in (found[:15], found[-15:]))
    assert late < 0.6 * early


def test_the_value_is_the_mean_and_of_a_pruned_one_the_running_mean() -> None:
    sampler = sampler_of("random")
    for number in range(3):
        sampler.enter(number, next(sampler.proposals(number, 1)))
    sampler.tell(0, [0.5, 0.7, 0.9], whole=True)
    sampler.tell(1, [0.4, 0.2], whole=False)
    sampler.tell(2, [], whole=False)
    one, two, three = sampler.trials
    assert one.value == pytest.approx(0.7)
    assert one.intermediate_values == pytest.approx({1: 0.5, 2: 0.6, 3: 0.7})
    assert two.state is TrialState.PRUNED
    assert two.value == pytest.approx(0.3)
    assert three.state is TrialState.FAIL


def test_a_proposal_of_no_use_is_no_setting() -> None:
    sampler = sampler_of("random")
    proposals = sampler.proposals(0, 5)
    first, second = next(proposals), next(proposals)
    assert first != second
    sampler.enter(0, second)
    assert [trial.params["alpha"] for trial in sampler.trials] == [second["alpha"]]
    refused = [t for t in sampler.study.trials if t.state is TrialState.FAIL]
    assert [trial.params["alpha"] for trial in refused] == [first["alpha"]]
