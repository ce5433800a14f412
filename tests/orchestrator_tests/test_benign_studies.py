"""Benign models in studies: `attack: none`, beside attacks and alone."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch

import orchestrator as o
from orchestrator.api import Results
from orchestrator.scheduler.decisions import Decisions, Status, TrialOutcome
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.load import load_study
from orchestrator.spec.model import Prune, PrunerChoice
from orchestrator.study import main
from tests.orchestrator_tests.simulation import Desk
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice, small_study
from tests.orchestrator_tests.spec_files import mistakes
from ulrl.attacks import AttackContext
from ulrl.attacks._benign import BenignModel, benign_classifier
from ulrl.attacks.none import NoAttack
from ulrl.datasets.digits import Digits
from ulrl.models import ModelSpec
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.poisoning import split_halves
from ulrl.recipes import VictimRecipe

STUDY = """\
name: mixed
grid:
  attack: [badnets, none, {name: lf, images: 4, passes: 1}]
  dataset: {name: digits, size: 12}
  architecture: {name: preact_resnet18, width: 2}
  poison_ratio: [0.1, 0.2]
  target_label: [0, 1]
  clean_ratio: 0.06
  unlearn_epochs: 3
  relearn_epochs: 2
  reinit_ratio: [0.5, 1.0]
  repair: [ulrl, {name: fine_tuning, epochs: 1}]
exclude: [{attack: lf, poison_ratio: 0.2}, {attack: [badnets, lf], target_label: 1}]
victim: {epochs: 3, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
mlflow: {log_models: none}
store: store
"""
ALONE = STUDY.replace("[badnets, none, {name: lf, images: 4, passes: 1}]", "none").replace(
    "exclude: [{attack: lf, poison_ratio: 0.2}, {attack: [badnets, lf], target_label: 1}]\n", ""
)
EMPTY = (
    *("poison_ratio", "target_label", "target_rank", "target_z"),
    *("der_selection", "der_report", "rir_selection", "rir_report"),
    *(
        f"{metric}_{when}_{half}"
        for metric in ("asr", "ra")
        for when in ("before", "after")
        for half in ("selection", "report")
    ),
)


def run(text: str, name: str) -> Results:
    Path("grid.yaml").write_text(text.replace("name: mixed", f"name: {name}"))
    return o.run_study(o.load_study("grid.yaml"), out=f"runs/{name}", inline=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder in which the study of the table above was run, and work there."""
    path = tmp_path_factory.mktemp("benign")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        run(STUDY, "mixed")
        yield path


@pytest.fixture
def rows(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "runs/mixed/results.csv", dtype=str, keep_default_na=False)


def test_it_has_one_scenario_and_empty_columns(rows: pd.DataFrame) -> None:
    assert Counter(rows.attack) == {"badnets": 6, "none": 3, "lf": 3}
    benign = rows[rows.attack == "none"]
    assert (benign[[*EMPTY]] == "").all(axis=None)
    attacked = rows[rows.attack != "none"]
    # Of fine-tuning, phase 1 has none either.
    given = [name for name in EMPTY if not name.startswith("target_") or name == "target_label"]
    assert (attacked[given] != "").all(axis=None)
    assert set(benign.status) == {"done"}
    assert set(benign.victim_ok) == {"True"}
    assert (benign[benign.repair == "ulrl"].flagged != "").all()


def test_its_acc_is_that_of_a_model_trained_apart(folder: Path, rows: pd.DataFrame) -> None:
    del folder
    dataset = Digits(size=12)
    images = dataset.load()
    _, channels, side, _ = images.train_images.shape
    spec = ModelSpec(
        architecture=PreActResNet18(width=2),
        classes=images.classes,
        channels=channels,
        side=side,
        preprocessing=dataset.preprocessing,
    )
    context = AttackContext(
        model_spec=spec,
        recipe=VictimRecipe.of(epochs=3, batch_size=64).config("digits", "none"),
        images=images,
        seed=0,
        device=torch.device("cpu"),
        learned={},
    )
    steps = BenignModel().train(context)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            learned = end.value
            break
    network = benign_classifier(AttackContext(**{**vars(context), "learned": learned})).network
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (spec.preprocessing.mean, spec.preprocessing.std)
    )
    inputs = (images.test_images.float() / 255 - mean) / std
    right = network(inputs).argmax(dim=1) == images.test_labels
    benign = rows[rows.attack == "none"]
    for half, index in zip(("selection", "report"), split_halves(images.test_labels), strict=True):
        expected = int(right[index].sum()) / len(index)
        assert benign[f"acc_before_{half}"].astype(float).tolist() == [expected] * 3


def test_the_counts_behind_a_repaired_model_are_of_clean_images(rows: pd.DataFrame) -> None:
    cells = pd.read_parquet("runs/mixed/confusion.parquet")
    benign = rows.index[rows.attack == "none"]
    own = cells[cells.trial.isin(benign)]
    assert set(own.images) == {"clean"}
    for number in benign:
        half = own[(own.trial == number) & (own.model == "repaired") & (own.half == "report")]
        hits = half["count"][half.true_class == half.predicted_class].sum()
        assert float(rows.acc_after_report[number]) == hits / half["count"].sum()


def test_the_clean_model_is_trained_once_for_all_that_need_it(folder: Path) -> None:
    stages = Counter(pd.read_csv(folder / "runs/mixed/stages.csv").stage)
    assert stages["train_helper"] == 2  # the clean model and the pattern of LF
    assert stages["train_victim"] == 4


def test_a_second_start_computes_nothing(folder: Path) -> None:
    before = (folder / "runs/mixed/results.csv").read_bytes()
    run(STUDY, "mixed")
    assert (folder / "runs/mixed/results.csv").read_bytes() == before
    run(STUDY, "again")
    computed = pd.read_csv(folder / "runs/again/stages.csv").computed
    assert not computed.any()


def test_it_has_no_say_in_the_best_setting_nor_in_a_figure(folder: Path) -> None:
    run(STUDY.replace(" none,", ""), "attacked")
    best, other = (o.load_results(f"runs/{name}").best() for name in ("mixed", "attacked"))
    assert best is not None
    assert other is not None
    assert best.setting == other.setting
    pd.testing.assert_frame_equal(best.scenarios, other.scenarios)
    figures = [*(folder / "runs/attacked/figures").glob("*.csv")]
    assert len(figures) > 8
    for path in figures:
        if path.name != "triggers.csv":
            mixed = folder / "runs/mixed/figures" / path.name
            assert mixed.read_text() == path.read_text(), path.name


def test_the_report_says_what_a_repair_costs(folder: Path, rows: pd.DataFrame) -> None:
    page = (folder / "runs/mixed/report.html").read_text()
    assert "and run on 1 benign model" in page
    assert '<section id="benign">' in page
    table = pd.read_csv(folder / "runs/mixed/figures/benign.csv")
    benign = rows[rows.attack == "none"]
    assert len(table) == len(benign) == 3
    assert table.acc_after.tolist() == pytest.approx(benign.acc_after_report.astype(float).tolist())
    flags = [len(json.loads(text)) for text in benign.flagged if text]
    assert table.flagged_mean.dropna().tolist() == flags
    (line,) = [line for line in page.splitlines() if line.startswith("<p>On 1 benign model")]
    best = o.load_results("runs/mixed").best()
    assert best is not None
    (own,) = [
        row
        for _, row in benign.iterrows()
        if row.repair == best.setting["repair"]
        and row.reinit_ratio in ("", str(best.setting["reinit_ratio"]))
    ]
    for when in ("before", "after"):
        assert f"{100 * float(own[f'acc_{when}_report']):.1f}\u00a0%" in line
    (row,) = [
        line
        for line in (folder / "runs/mixed/table.md").read_text().splitlines()
        if line.startswith("| none")
    ]
    assert row.count("–") == 7, "no ASR, RA and DER"
    assert not re.search(r"\bnan\b", re.sub(r"<[^>]*>", " ", page), re.IGNORECASE)


def test_mlflow_has_no_metric_of_an_attack(folder: Path) -> None:
    del folder
    client = mlflow.MlflowClient(f"sqlite:///{Path('runs/mlflow.db').absolute()}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "mixed"]
    runs = client.search_runs([experiment.experiment_id], "tags.attack = 'none'")
    assert len(runs) == 4  # the scenario and three trials
    for one in runs:
        names = [*one.data.metrics, *one.data.params]
        assert not [
            n for n in names if n.startswith(("asr", "ra_", "der", "rir", "poison", "target"))
        ]
        assert "acc_before_report" in one.data.metrics


def test_the_study_file_that_is_left_reads_as_the_same(folder: Path) -> None:
    study = load_study(str(folder / "grid.yaml"))
    (folder / "resolved.yaml").write_text(resolved_yaml(study))
    again = load_study(str(folder / "resolved.yaml"))
    assert again.grid == study.grid
    assert again.exclude == study.exclude


def test_results_are_computed_again(
    folder: Path, capsys: pytest.CaptureFixture[str], rows: pd.DataFrame
) -> None:
    del folder
    Path("grid.yaml").write_text(STUDY)
    assert (
        main(["grid.yaml", "--inline", "--out", "runs/mixed", "--redo-victims", "attack=none"]) == 0
    )
    text = capsys.readouterr().out
    assert "1 victim with all that rests on them" in text
    assert "run now: 1 helper, 1 victim" in text
    assert main(["grid.yaml", "--inline", "--out", "runs/mixed", "--redo", "attack=none"]) == 0
    text = capsys.readouterr().out
    # Settings that flag the same rows share a model, of which there are relearning and evaluation.
    forgotten = re.search(r"forgot (\d+) results of 3 trials", text)
    assert forgotten
    assert f"run now: {int(forgotten[1]) // 2} repaired models" in text
    again = pd.read_csv("runs/mixed/results.csv", dtype=str, keep_default_na=False)
    times = ["seconds", "repair_seconds", "mlflow_run_id"]
    pd.testing.assert_frame_equal(again.drop(columns=times), rows.drop(columns=times))


def test_a_study_of_benign_models_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del folder
    Path("alone.yaml").write_text(ALONE.replace("mixed", "alone").replace("prune: none\n", ""))
    assert main(["alone.yaml", "--plan", "--out", "runs/alone"]) == 0
    assert "1 scenario × 3 settings = 3 trials" in capsys.readouterr().out
    assert main(["alone.yaml", "--inline", "--out", "runs/alone"]) == 0
    assert "no objective and no setting is best" in capsys.readouterr().out
    page = Path("runs/alone/report.html").read_text()
    assert "no objective and no setting is best" in page
    assert "3 settings of reinit_ratio and repair, run on 1 benign model" in page
    assert 'id="repairs"' not in page
    assert o.load_results("runs/alone").best() is None
    load_study("runs/alone/study.yaml")


def grid_of(*attacks: str, rest: str = "") -> str:
    return f"""\
name: s
grid:
  attack: [{", ".join(attacks)}]
  dataset: digits
  architecture: preact_resnet18
  target_label: [0, 1]
{rest}"""


WITHOUT = "and without an attack there is none"


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            grid_of("{name: none, poison_ratio: 0.1}"),
            "3: grid.attack.0.poison_ratio: none has no options",
        ),
        (grid_of("none", "none"), "3: grid.attack.1: none stands twice; first at grid.attack.0"),
        (
            grid_of("none", rest="prune: {setting: wilcoxon}\n"),
            (
                f"7: prune: settings and curves are pruned by the objective, {WITHOUT}; write "
                "prune: none, or add an attack"
            ),
        ),
        (
            grid_of("none", rest="  alpha: [0.5, 0.6]\nsearch: {sampler: tpe, settings: 2}\n"),
            (
                f"8: search: a sampler learns from the objective, {WITHOUT}; list the settings, "
                "or add an attack"
            ),
        ),
        (
            grid_of("badnets", "none", rest="exclude: [{attack: none, target_label: 0}]\n"),
            "7: exclude.0: the entry matches nothing in the grid",
        ),
        (
            grid_of("badnets", "none", rest="exclude: [{attack: none, poison_ratio: 0.1}]\n"),
            "7: exclude.0: the entry matches nothing in the grid",
        ),
        (
            grid_of("badnets", "none", rest="exclude: [{poison_ratio: 0.2}]\n"),
            "7: exclude.0.poison_ratio: poison_ratio in the grid is 0.1; got 0.2",
        ),
        (
            grid_of("badnets", "none", rest="exclude: [{attack: [badnets, none]}]\n"),
            "7: exclude: nothing is left of the grid's 3 trials",
        ),
        (
            grid_of("badnets", "none", rest="victim: {import: zoo}\n"),
            (
                "3: grid.attack.1: a benign model is trained, and the victims of this study are "
                "imported; study it in a file of its own"
            ),
        ),
    ],
)
def test_what_is_wrong_with_a_file(text: str, line: str) -> None:
    assert mistakes(text) == [line]


def test_pruners_do_not_hear_of_benign_models(tmp_path: Path) -> None:
    wilcoxon = PrunerChoice(
        pruner="wilcoxon", arguments={"p_threshold": 0.05, "n_startup_steps": 5}
    )
    found = []
    for number, benign in enumerate(([], [choice(NoAttack())])):
        study = small_study(
            attacks=[choice(BADNETS), choice(BLENDED), *benign],
            settings={"alpha": (0.5, 0.6, 0.7)},
            grid={"seeds": tuple(range(6)), "target_labels": (0, 1)},
            prune=Prune(setting=wilcoxon),
        )
        plan = Desk(study, tmp_path / str(number)).plan
        assert sum(scenario.benign for scenario in plan.scenarios) == 6 * len(benign)
        order = [plan.scenarios[n].benign for n in plan.scenario_order]
        assert order == sorted(order), "benign models come last"
        decisions = Decisions(plan)
        verdicts = {}
        for trial in decisions.order:
            value = None if trial.scenario.benign else 0.9 - 0.1 * trial.setting.number
            for verdict in decisions.offer(trial, TrialOutcome(value=value, measured=True)):
                verdicts[verdict.trial.number] = verdict
        assert decisions.complete()
        of_benign = {v.status for v in verdicts.values() if v.trial.scenario.benign}
        assert of_benign == ({Status.DONE, Status.PRUNED} if benign else set())
        attacked = {v.trial.key: v.status for v in verdicts.values() if not v.trial.scenario.benign}
        assert Status.PRUNED in attacked.values()
        found.append(attacked)
    assert found[0] == found[1]
