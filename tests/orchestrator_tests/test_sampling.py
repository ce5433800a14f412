"""Settings that are drawn while a study runs, in simulated studies."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from orchestrator.address import Address
from orchestrator.cli.summary import print_summary
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.plan.plan import make_plan, own_setting
from orchestrator.reporting.build import write_report
from orchestrator.scheduler.sampling import foresee
from orchestrator.search.samplers import SAMPLERS
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.model import Exclusion, Prune, VictimRule
from orchestrator.spec.space import Range, Span, identity
from tests.orchestrator_tests.drawn_studies import AXES, study_of
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import (
    MEDIAN,
    WILCOXON,
)


def settings_of(desk: Desk) -> list[str]:
    return [identity(setting.values) for setting in desk.plan.settings]


def recorded(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "settings.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("count", [1, 4, 30])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_as_many_settings_as_asked_for_are_done_in_every_scenario(
    sampler: str, count: int, tmp_path: Path, store: str
) -> None:
    desk = Desk(study_of(store, sampler), tmp_path)
    workers = Workers(Random(0), count)
    workers.run(desk)
    assert len(desk.plan.settings) == 10
    assert len(set(settings_of(desk))) == 10
    assert Counter(desk.statuses()) == {"done": 60}
    assert desk.plan.settings[0].values == own_setting(desk.plan.study)
    assert max(workers.executed.values()) == 1
    assert sum(count for (stage, _), count in workers.executed.items() if stage == "unlearn") == 6
    assert [identity(values) for values in recorded(tmp_path)] == settings_of(desk)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_kills_it_a_study_draws_no_setting_again_and_goes_on(
    sampler: str, seed: int, tmp_path: Path, store: str
) -> None:
    source = Random(f"kills {seed}")
    workers = Workers(source, 3)
    known: list[str] = []
    study = study_of(store, sampler, prune=Prune(setting=WILCOXON))
    for _ in range(6):
        desk = Desk(study, tmp_path)
        assert settings_of(desk) == known
        workers.run(desk, source.randrange(40))
        known = settings_of(desk)
        with (tmp_path / "settings.jsonl").open("a") as file:
            file.write('{"alpha": 0.3, "unl')  # torn in the middle of the next
    desk = Desk(study, tmp_path)
    workers.run(desk)
    assert settings_of(desk)[: len(known)] == known
    assert len(set(settings_of(desk))) == 10
    assert set(desk.statuses()) <= {"done", "pruned"}
    assert max(workers.executed.values()) == 1
    done = Workers()
    again = Desk(study, tmp_path)
    done.run(again)
    assert not done.executed
    assert again.rows() == desk.rows()


def test_one_worker_draws_the_same_whether_it_is_killed_or_not(tmp_path: Path) -> None:
    def drawn(place: Path, kills: int) -> list[str]:
        place.mkdir()
        study = study_of(f"memory://{place}/store", "tpe")
        for _ in range(kills):
            Workers().run(Desk(study, place), 70)
        desk = Desk(study, place)
        Workers().run(desk)
        return settings_of(desk)

    assert drawn(tmp_path / "killed", 3) == drawn(tmp_path / "undisturbed", 0)


def test_no_setting_is_drawn_before_there_is_nothing_else_to_do(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of(store), tmp_path)
    workers = Workers(Random(0), 2)
    for steps in (1, 10, 40, 80):
        desk = Desk(study_of(store), tmp_path)
        workers.run(desk, steps)
        begun = {name for name in desk.recorder.started_items if name.startswith("trial")}
        settings = len(desk.plan.settings)
        wanted = -(-sum(status == "done" for status in desk.statuses()) // 6) + 2
        assert settings <= max(1, wanted), (steps, begun)


def test_more_settings_are_added_and_fewer_keep_the_first(tmp_path: Path, store: str) -> None:
    workers = Workers(Random(1), 2)
    first = Desk(study_of(store, settings=4), tmp_path)
    workers.run(first)
    more = Desk(study_of(store, settings=7), tmp_path)
    workers.run(more)
    assert settings_of(more)[:4] == settings_of(first)
    assert len(more.plan.settings) == 7
    fewer = Desk(study_of(store, settings=2), tmp_path)
    workers.run(fewer)
    assert settings_of(fewer) == settings_of(first)[:2]
    assert max(workers.executed.values()) == 1


def test_settings_outside_of_a_changed_range_leave_the_results(tmp_path: Path, store: str) -> None:
    workers = Workers(Random(1), 2)
    first = Desk(study_of(store), tmp_path)
    workers.run(first)
    inside = [s for s in first.plan.settings if s.values["alpha"] >= 0.6]
    assert 0 < len(inside) < 10
    narrow = {**AXES, "alpha": Range(low=0.6, high=2.0)}
    second = Desk(study_of(store, axes=narrow), tmp_path)
    assert settings_of(second) == [identity(setting.values) for setting in inside]
    workers.run(second)
    assert len(second.plan.settings) == 10
    assert all(row["alpha"] >= 0.6 for row in second.rows())
    back = Desk(study_of(store), tmp_path)
    assert settings_of(back) == settings_of(first)
    assert max(workers.executed.values()) == 1


def test_an_axis_more_or_less_is_another_space(tmp_path: Path, store: str) -> None:
    Workers().run(Desk(study_of(store, settings=3), tmp_path))
    other = {name: AXES[name] for name in ("alpha", "reinit_ratio")}
    desk = Desk(study_of(store, settings=3, axes=other), tmp_path)
    assert desk.plan.settings == []
    Workers().run(desk)
    assert len(recorded(tmp_path)) == 6


def test_a_record_that_is_not_ours_is_passed_over(tmp_path: Path, store: str) -> None:
    lines = ["nonsense", "[]", "3", '{"alpha": 5}', "\x00\xff"]
    (tmp_path / "settings.jsonl").write_bytes("\n".join(lines).encode("latin-1") + b"\n")
    desk = Desk(study_of(store, settings=3), tmp_path)
    Workers().run(desk)
    assert len(desk.plan.settings) == 3


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_a_small_space_is_drawn_to_its_end_and_nothing_twice(
    sampler: str, tmp_path: Path, store: str
) -> None:
    axes = {"reinit_ratio": (0.0, 0.5, 1.0), "max_suspects": (1, 2), "alpha": (0.7, 0.9)}
    desk = Desk(study_of(store, sampler, settings=12, axes=axes, scenarios=1), tmp_path)
    workers = Workers(Random(0), 5)
    workers.run(desk)
    assert len(set(settings_of(desk))) == 12
    assert Counter(desk.statuses()) == {"done": 24}


def test_what_is_excluded_is_not_drawn(tmp_path: Path, store: str) -> None:
    exclude = (
        Exclusion(conditions={"alpha": (Span(low=0.1, high=1.0),)}),
        Exclusion(conditions={"reinit_ratio": (0.5,), "attack": ("blended",)}),
        Exclusion(conditions={"seed": (2,), "attack": ("badnets",)}),
    )
    desk = Desk(study_of(store, "random", settings=12, exclude=exclude), tmp_path)
    Workers(Random(0), 3).run(desk)
    assert len(desk.plan.scenarios) == 5
    assert len(desk.plan.settings) == 12
    rows = desk.rows()
    assert all(row["alpha"] > 1.0 for row in rows)
    halves = [row["attack"] for row in rows if row["reinit_ratio"] == 0.5]
    assert set(halves) == {"badnets"}
    assert {row["status"] for row in rows} == {"done"}


def test_where_all_is_excluded_but_a_few_the_study_ends_with_those(
    tmp_path: Path, store: str
) -> None:
    axes = {"reinit_ratio": (0.0, 0.5, 1.0), "max_suspects": (1, 2)}
    exclude = (Exclusion(conditions={"reinit_ratio": (0.5, 1.0)}),)
    desk = Desk(study_of(store, settings=6, axes=axes, exclude=exclude), tmp_path)
    Workers(Random(0), 3).run(desk)
    assert len(desk.plan.settings) == 2
    assert desk.scheduler.complete


def test_rows_are_scenario_by_scenario_in_the_order_drawn(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of(store, settings=4), tmp_path)
    Workers(Random(2), 4).run(desk)
    places = [(trial.scenario.number, trial.setting.number) for trial in desk.plan.rows]
    assert places == [(scenario, setting) for scenario in range(6) for setting in range(4)]
    desk.results.write(tmp_path, {})
    first = (tmp_path / "results.csv").read_bytes()
    again = Desk(study_of(store, settings=4), tmp_path)
    Workers().run(again)
    again.results.write(tmp_path, {})
    assert (tmp_path / "results.csv").read_bytes() == first


def test_the_sampler_learns_the_mean_over_scenarios_with_a_sound_victim(
    tmp_path: Path, store: str
) -> None:
    desk = Desk(study_of(store, settings=5, prune=Prune(setting=WILCOXON)), tmp_path)
    Workers(Random(0), 2).run(desk)
    (sampler,) = desk.scheduler.drawing.samplers
    for setting, trial in zip(desk.plan.settings, sampler.trials, strict=True):
        rows = [desk.results.row(t) for t in desk.plan.trials if t.setting.number == setting.number]
        reached = [row["der_selection"] for row in rows if row["status"] == "done"]
        assert trial.value == pytest.approx(sum(reached) / len(reached))
        pruned = any(row["status"] == "pruned" for row in rows)
        assert trial.state.name == ("PRUNED" if pruned else "COMPLETE")


def test_a_sampler_without_a_value_says_why_and_so_does_the_end(
    tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every victim is weak: each setting's trial in Optuna's study failed for that reason."""
    rule = VictimRule(min_acc=0.91, min_asr=0.95)
    desk = Desk(study_of(store, settings=3, victim_rule=rule), tmp_path)
    Workers(Random(0), 2).run(desk)
    (sampler,) = desk.scheduler.drawing.samplers
    assert len(sampler.trials) == 3
    for setting, trial in zip(desk.plan.settings, sampler.trials, strict=True):
        assert trial.state.name == "FAIL"
        assert trial.user_attrs["reason"] == ("6 of 6 trials left out, because the victim is weak")
        named = {line.split(": ")[0]: line for line in trial.user_attrs["trials"]}
        own = [t for t in desk.plan.trials if t.setting.number == setting.number]
        assert named.keys() == {t.name for t in own}
        assert all(t.scenario.text in named[t.name] for t in own)
    desk.results.write(tmp_path, {})
    said = "The sampler (tpe) has learned nothing: no trial on a victim that took is done"
    (tmp_path / "study.yaml").write_text(resolved_yaml(desk.plan.study))
    write_report(tmp_path)
    assert said in (tmp_path / "report.html").read_text()
    table = tmp_path / "results.csv"
    for sampler_name, times in (("tpe", 1), ("qmc", 0), (None, 0)):
        print_summary(Console(width=80), table, "der", sampler_name)
        assert capsys.readouterr().out.count(said) == times


def test_a_sampler_that_learned_is_not_said_to_have_learned_nothing(
    tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(study_of(store, settings=2), tmp_path)
    Workers(Random(0), 2).run(desk)
    desk.results.write(tmp_path, {})
    print_summary(Console(), tmp_path / "results.csv", "der", "tpe")
    assert "learned nothing" not in capsys.readouterr().out


def test_curves_are_cut_in_settings_that_are_drawn(tmp_path: Path, store: str) -> None:
    few = {"clean_ratio": (0.05,), "relearn_epochs": (5,), "unlearn_epochs": (3,)}
    prune = Prune(setting=WILCOXON, curve=MEDIAN)
    study = study_of(store, "random", settings=12, prune=prune, few=few)
    alone, together = tmp_path / "one", tmp_path / "many"
    for place, count in ((alone, 1), (together, 4)):
        place.mkdir()
        desk = Desk(replace(study, store=Address(f"memory://{place}/store")), place)
        Workers(Random(0), count).run(desk)
        assert set(desk.statuses()) == {"done", "pruned"}
        assert {pruning.level for pruning in desk.scheduler.decisions.prunings} >= {"curve"}


def test_without_a_victim_nothing_more_is_drawn(tmp_path: Path, store: str) -> None:
    study = study_of(store, settings=5)
    desk = Desk(study, tmp_path)
    names = [f"victim-{scenario.number:04d}" for scenario in desk.plan.scenarios]
    Workers(failing=names).run(desk)
    assert len(desk.plan.settings) == 1
    assert Counter(desk.statuses()) == {"failed": 6}
    some = Desk(study, tmp_path)
    Workers(failing=names[:1]).run(some)
    assert len(some.plan.settings) == 5
    assert Counter(some.statuses()) == {"failed": 5, "done": 25}


def test_a_failing_ascent_does_not_keep_others_from_trying(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of(store, settings=5), tmp_path)
    Workers(Random(0), 4, stumbling=["ascent-00002"]).run(desk)
    assert Counter(desk.statuses()) == {"failed": 1, "done": 29}


def test_a_worker_finds_an_item_by_name_and_its_setting(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of(store, settings=4), tmp_path)
    desk.scheduler.open()
    workers = Workers(Random(0), 2)
    workers.run(desk)
    elsewhere = JobCatalog(make_plan(desk.plan.study))
    for trial in reversed(desk.plan.trials):
        for item in (
            desk.scheduler._catalog.job(trial, 1),
            desk.scheduler._catalog.group_of(trial).job,
        ):
            found = elsewhere.named(item.name, desk.scheduler.drawn_for(item))
            assert found == item
            assert found.is_trial == item.is_trial


def test_a_plan_foresees_as_many_settings_as_there_will_be(store: str) -> None:
    plan = make_plan(study_of(store, settings=9))
    assert (plan.most_settings, plan.most_trials, len(plan.trials)) == (9, 54, 0)
    foresee(plan)
    assert len({identity(setting.values) for setting in plan.settings}) == 9
    assert len(plan.trials) == 54
