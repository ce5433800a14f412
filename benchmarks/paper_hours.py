"""GPU-hours of the paper's grid, from stages as they were measured on a GPU.

On the GPU, which needs the core alone: ``python -m benchmarks.paper_hours --measure speeds.json``
times training steps and tests of each architecture on images of each dataset's kind. Then, with
all that a study needs: ``python -m benchmarks.paper_hours speeds.json`` counts the stages of
``studies/paper.yaml`` as ``--plan`` does, for one seed, and multiplies.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from benchmarks._common import ROOT, environment, table, the_device

STUDY = ROOT / "studies" / "paper.yaml"
BATCH = 128
# Classes and side of CIFAR-10, CIFAR-100, GTSRB and Tiny-ImageNet. ViT-B/16 enlarges every image
# to 224, so that they are all one to it.
SHAPES = ((10, 32), (100, 32), (43, 32), (200, 64))
MODELS = {"preact_resnet18": SHAPES, "vgg19_bn": SHAPES, "vit_b_16": SHAPES[:1]}
BUDGET = 60.0  # seconds for all of them


def main(argv: list[str] | None = None) -> None:
    """Measure, or print a row per stage and the sum."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("speeds", type=Path, help="file of what was measured")
    parser.add_argument("--measure", action="store_true", help="measure here, and write the file")
    parser.add_argument("--study", type=Path, default=STUDY, help="default: studies/paper.yaml")
    given = parser.parse_args(argv)
    if given.measure:
        given.speeds.write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    else:
        tell(json.loads(given.speeds.read_text(encoding="utf-8")), given.study)


def measured() -> dict[str, Any]:
    """Return seconds per image of each architecture and shape, on this machine's GPU."""
    import torch

    from benchmarks._material import PREPROCESSING
    from orchestrator.plan import cost_model
    from ulrl.models import ARCHITECTURES
    from ulrl.precision import Precision

    torch.set_num_threads(1)
    cost_model.BUDGET = BUDGET
    places = [
        (name, *shape, replayed)
        for name, shapes in MODELS.items()
        for shape in shapes
        for replayed in (True, False)
    ]
    clock = cost_model.Calibration(the_device().type, 1, len(places))
    found = []
    for name, classes, side, replayed in places:
        kind = cost_model.StageShape(
            architecture=ARCHITECTURES[name](),
            classes=classes,
            channels=3,
            side=side,
            preprocessing=PREPROCESSING,
            batch=BATCH,
            precision=Precision.AUTO,
            replayed=replayed,
        )
        speed = clock.speed(kind)
        if not speed.timed:
            raise SystemExit(f"{name} at {side} pixels was not timed within {BUDGET:g} s in all")
        place = {"architecture": name, "classes": classes, "side": side, "replayed": replayed}
        found.append(place | asdict(speed))
    return {"environment": environment(), "batch": BATCH, "speeds": found}


def tell(found: dict[str, Any], file: Path) -> None:
    """Print what the study takes at these speeds, on one GPU that works on one item at a time."""
    from orchestrator.plan.cost_model import Calibration, Speed, StageShape
    from orchestrator.plan.plan import make_plan
    from orchestrator.plan.resources import Compute
    from orchestrator.scheduler.estimate import estimate
    from orchestrator.spec.load import load_study
    from orchestrator.store.keys import CacheKeys
    from orchestrator.store.store import Store

    speeds = {
        (one["architecture"], one["classes"], one["side"], one["replayed"]): one
        for one in found["speeds"]
    }

    def speed(_: Calibration, kind: StageShape) -> Speed:
        shapes = MODELS[kind.architecture.name]
        shape = (kind.classes, kind.side) if len(shapes) > 1 else shapes[0]
        told = speeds[kind.architecture.name, *shape, kind.replayed]
        return Speed(train=told["train"], test=told["test"], timed=told["timed"])

    study = load_study(str(file), ["grid.seed=[0]"])
    plan = make_plan(study)
    keys = CacheKeys(study.victim, Compute(device="cuda"))
    with TemporaryDirectory() as empty, patch.object(Calibration, "speed", speed):
        cost = estimate(plan, Store(empty), keys, workers=1, gpu=1.0)
    where = found["environment"]
    print(f"{where['device']}, torch {where['torch']}, commit {where['commit']}\n")
    table(
        ["architecture", "classes", "side", "replayed", "us an image: training", "test"],
        [
            [*place, round(1e6 * one["train"], 1), round(1e6 * one["test"], 1)]
            for place, one in speeds.items()
        ],
    )
    print()
    table(
        ["stage", "runs", "hours"],
        [
            [stage, cost.relearns if stage == "relearn" else cost.runs[stage], seconds / 3600]
            for stage, seconds in cost.stages.items()
        ]
        + [["all", "", cost.seconds / 3600]],
    )


if __name__ == "__main__":
    main()
