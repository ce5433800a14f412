"""The KubeRay manifests of the docs against the published schemas of KubeRay's resources."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests import kuberay

DOCS = Path(__file__).resolve().parents[1] / "docs"
MANIFESTS = {
    document["kind"]: document
    for path in sorted((DOCS / "cluster").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    if document["apiVersion"].startswith("ray.io/")
}
Manifest = dict[str, Any]
POD = "$.spec.rayClusterSpec.workerGroupSpecs[0].template.spec"


def mistakes(manifest: Manifest, version: str) -> list[str]:
    """Return what a version of KubeRay refuses of a manifest, by place."""
    schema = kuberay.schema_of(version, manifest["kind"])
    return sorted(error.json_path for error in Draft202012Validator(schema).iter_errors(manifest))


@pytest.mark.parametrize("version", kuberay.versions())
@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_a_manifest_fits_the_schema(kind: str, version: str) -> None:
    manifest = MANIFESTS[kind]
    assert manifest["apiVersion"] == "ray.io/v1"
    assert mistakes(manifest, version) == []


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_a_cluster_has_a_node_that_computes_before_a_study_starts(kind: str) -> None:
    """A study that finds no room is refused; its driver then cannot make the cluster grow."""
    spec = MANIFESTS[kind]["spec"]
    spec = spec.get("rayClusterSpec", spec)
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = spec["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert group["replicas"] >= 1
    assert "enableInTreeAutoscaling" not in spec  # it would take idle nodes away


def test_the_page_names_the_oldest_version_that_was_checked() -> None:
    page = (DOCS / "cluster.md").read_text(encoding="utf-8")
    assert re.findall(r"KubeRay operator \(([\d.]+) or newer", page) == [kuberay.versions()[0]]


def cluster(manifest: Manifest) -> Manifest:
    found: Manifest = manifest["spec"]["rayClusterSpec"]
    return found


def pod(manifest: Manifest) -> Manifest:
    found: Manifest = cluster(manifest)["workerGroupSpecs"][0]["template"]["spec"]
    return found


@pytest.mark.parametrize(
    ("spoil", "place"),
    [
        (lambda job: job["spec"].update(backoffLimit="3"), "$.spec.backoffLimit"),
        (lambda job: job["spec"].update(shutdownAfterFinish=True), "$.spec"),
        (
            lambda job: cluster(job)["authOptions"].update(mode="tokens"),
            "$.spec.rayClusterSpec.authOptions.mode",
        ),
        (lambda job: cluster(job).pop("headGroupSpec"), "$.spec.rayClusterSpec"),
        (
            lambda job: pod(job).pop("containers"),
            POD,
        ),
        (
            lambda job: pod(job)["containers"][0].update(volumeMounts={"name": "ulrl"}),
            f"{POD}.containers[0].volumeMounts",
        ),
        (
            lambda job: pod(job)["containers"][0]["resources"]["limits"].update(cpu="many"),
            f"{POD}.containers[0].resources.limits.cpu",
        ),
        (
            lambda job: pod(job)["volumes"][0].update(persistentVolumeClaim={"name": "ulrl"}),
            f"{POD}.volumes[0].persistentVolumeClaim",
        ),
    ],
)
def test_the_schema_refuses_what_kuberay_would(
    spoil: Callable[[Manifest], object], place: str
) -> None:
    job = copy.deepcopy(MANIFESTS["RayJob"])
    spoil(job)
    for version in kuberay.versions():
        assert place in mistakes(job, version)
