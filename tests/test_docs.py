"""Pages that are made from the code are as the code says; commands and manifests are sound."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
import yaml

from orchestrator.spec.load import load_study
from tests import attacks_page, audits_page, methods_page, settings_table

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "docs" / "cluster"
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_of_hyperparameters_is_fresh() -> None:
    fresh = settings_table.page()
    assert settings_table.PAGE.read_text(encoding="utf-8") == fresh, (
        "run: python -m tests.settings_table"
    )


def test_the_page_of_attacks_is_fresh() -> None:
    told = attacks_page.told()
    assert len(told) >= 18
    fresh = attacks_page.page(told)  # an attack that was just added need not be there yet
    assert attacks_page.PAGE.read_text(encoding="utf-8") == fresh, (
        "run: python -m tests.attacks_page"
    )


def test_the_page_of_repair_methods_is_fresh() -> None:
    assert methods_page.PAGE.read_text(encoding="utf-8") == methods_page.page(), (
        "run: python -m tests.methods_page"
    )


def test_the_page_of_audits_is_fresh() -> None:
    assert audits_page.PAGE.read_text(encoding="utf-8") == audits_page.page(), (
        "run: python -m tests.audits_page"
    )


def test_the_example_of_the_library_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """README's lines on a victim of one's own, with files as they ask for; the last line is DER.

    Here the victim is a smaller network, under the same name.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(code) == 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.models, "resnet18", torchvision.models.shufflenet_v2_x0_5)
    torch.manual_seed(0)
    images, labels = torch.randint(0, 256, (8, 3, 32, 32)).to(torch.uint8), torch.arange(8)
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), "victim.pt")
    torch.save((images, labels), "clean.pt")
    tests = {"clean": images, "clean_labels": labels, "triggered": images, "true_labels": labels}
    torch.save({**tests, "target_labels": labels * 0}, "tests.pt")
    names: dict[str, object] = {}
    exec("".join(code), names)
    assert (tmp_path / "repaired.pt").exists()
    assert re.search(r"\) (0\.\d+|1\.0)$", capsys.readouterr().out.strip())


# Clusters.


@pytest.mark.parametrize("text", [*SNIPPETS, (CLUSTER / "slurm.sh").read_text(encoding="utf-8")])
def test_shell_of_the_page_of_clusters_parses(text: str) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_commands_of_the_page_of_clusters_name_what_exists() -> None:
    assert len(SNIPPETS) >= 8
    named = set(re.findall(r"(?:docs|studies)/[\w./-]+\.(?:yaml|sh)", "\n".join(SNIPPETS)))
    assert {"docs/cluster/slurm.sh", "studies/cluster.yaml"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.yaml")), ids=lambda path: path.stem)
def test_manifests_parse_and_ask_for_gpus_that_limits_allow(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert all({"apiVersion", "kind", "metadata"} <= set(document) for document in documents)
    for document in documents:
        spec = document.get("spec", {})
        cluster = spec.get("rayClusterSpec", spec)
        for group in cluster.get("workerGroupSpecs", []):
            (container,) = group["template"]["spec"]["containers"]
            resources = container["resources"]
            assert resources["limits"]["nvidia.com/gpu"] == 1
            assert resources["requests"] == resources["limits"]  # Ray counts the limits
            assert container["image"]
            assert container["volumeMounts"]


def test_the_job_of_the_manifest_is_a_study_that_parses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = yaml.safe_load_all((CLUSTER / "kuberay-job.yaml").read_text(encoding="utf-8"))
    words = job["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "orchestrator.study"]
    overrides = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    monkeypatch.chdir(tmp_path)
    study = load_study(str(ROOT / words[3]), overrides)
    assert study.store.reveal() == "/ulrl/store"
    assert study.mlflow.uri is not None
    assert study.mlflow.uri.reveal() == "http://mlflow:5000"
