"""What orchestration costs where trials do nothing: ``python -m benchmarks.bench_orchestration``.

Contenders take turns in one run, each in a process of its own, on two workers: a study of ours
(the Optuna bridge, keys, the store with its checks and syncs, the study folder and MLflow's queue
in the loop), a bare pool of Ray actors, Ray Tune with reused workers, Ray Tune with a fresh worker
per trial; none of the other three keeps anything. A rate counts from the first that ends to the
last, so nobody's start counts. `--sizes` are the trials of our studies; the larger ones show
whether a trial's cost stays, and what planning, memory and resuming take.
"""

import importlib.metadata
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._common import options, report

SETTINGS = 25
WORKERS = 2
COUNTS = {"bare actor pool": 2000, "Tune, reused workers": 150, "Tune, fresh workers": 6}
QUICK = {"bare actor pool": 20, "Tune, reused workers": 4, "Tune, fresh workers": 2}
OURS = "this project"
STUDY = """\
name: bench
grid:
  attack: badnets
  dataset: digits
  architecture: {{name: preact_resnet18, width: 1}}
  seed: [{seeds}]
  relearn_lr: [{rates}]
prune: {{setting: {{pruner: wilcoxon, p_threshold: 1.0e-9, n_startup_steps: 7}}}}
resources: {{workers: {workers}}}
mlflow: {{uri: "http://127.0.0.1:9", log_models: none}}  # nobody there: all waits in the queue
store: {store}
"""


def ours(count: int, folder: Path) -> dict[str, float]:
    """Do a study of so many trials, or what is left of it."""
    from rich.console import Console

    from benchmarks.idle import Idle
    from orchestrator.cli.run import run_study
    from orchestrator.executor import ray_tune
    from orchestrator.plan.jobs import Job, JobResult
    from orchestrator.plan.plan import make_plan
    from orchestrator.scheduler.scheduler import StudyScheduler
    from orchestrator.spec.load import load_study
    from orchestrator.terminal import Interrupts

    study = load_study(str(write_study(count, folder)), [])
    started = time.perf_counter()
    make_plan(study)
    planned = time.perf_counter()
    ends: list[float] = []
    run_on_ray = partial(ray_tune.run_on_ray, runner=Idle)

    def watched(scheduler: StudyScheduler, *arguments: Any) -> None:
        finished = scheduler.finished

        def note(job: Job, result: JobResult) -> None:
            finished(job, result)
            ends.append(time.perf_counter())

        scheduler.finished = note  # type: ignore[method-assign]
        run_on_ray(scheduler, *arguments)

    ray_tune.run_on_ray = watched  # type: ignore[assignment]
    code = run_study(
        study,
        folder / "out",
        Console(file=io.StringIO()),
        Interrupts(),
        address=None,
        inline=False,
        verbose=False,
    )
    if code:
        raise RuntimeError(f"the study ended with {code}")
    return {
        "rate": count / (ends[-1] - ends[0]),
        "plan": planned - started,
        "whole": time.perf_counter() - planned,
        "after": time.perf_counter() - ends[-1],
        "cpu": time.process_time(),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def write_study(count: int, folder: Path) -> Path:
    """Write the study's file; no two trials share a result."""
    path = folder / "bench.yaml"
    text = STUDY.format(
        seeds=", ".join(str(seed) for seed in range(max(1, count // SETTINGS))),
        rates=", ".join(f"{0.001 * (number + 1):.3f}" for number in range(min(count, SETTINGS))),
        workers=WORKERS,
        store=folder / "store",
    )
    path.write_text(text)
    return path


def pool(count: int, folder: Path) -> dict[str, float]:
    """Let bare actors do nothing so many times."""
    del folder
    import ray
    from ray.util import ActorPool

    start_ray()

    @ray.remote(num_cpus=1)
    class Actor:
        def work(self, number: int) -> int:
            return number

    actors = ActorPool([Actor.remote() for _ in range(WORKERS)])  # type: ignore[attr-defined]
    results = actors.map_unordered(
        lambda actor, number: actor.work.remote(number), list(range(count))
    )
    return {"rate": rate_of(time.perf_counter() for _ in results)}


def tune_reused(count: int, folder: Path) -> dict[str, float]:
    """Let Tune's workers do nothing, one trial after the other."""
    return plain_tune(count, folder, reuse=True)


def tune_fresh(count: int, folder: Path) -> dict[str, float]:
    """Let a new worker of Tune do nothing, for each trial."""
    return plain_tune(count, folder, reuse=False)


def plain_tune(count: int, folder: Path, *, reuse: bool) -> dict[str, float]:
    from ray import tune

    start_ray()
    ends: list[float] = []

    class Nothing(tune.Trainable):
        def step(self) -> dict[str, Any]:
            return {"done": True, "value": 1.0}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            del new_config
            return True

    class Watch(tune.Callback):
        def on_trial_complete(self, *args: Any, **kwargs: Any) -> None:
            del args, kwargs
            ends.append(time.perf_counter())

    trainable = tune.with_resources(Nothing, {"cpu": 1})
    config = tune.TuneConfig(num_samples=count, max_concurrent_trials=WORKERS, reuse_actors=reuse)
    run = tune.RunConfig(
        storage_path=str(folder / "tune"),
        verbose=0,
        callbacks=[Watch()],
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
    )
    tune.Tuner(trainable, tune_config=config, run_config=run).fit()
    return {"rate": rate_of(ends)}


def start_ray() -> None:
    import logging

    import ray

    from orchestrator.executor.ray_setup import configure

    if ray.is_initialized():
        return
    configure(1)
    ray.init(
        address="local",
        num_cpus=WORKERS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        _node_ip_address="127.0.0.1",
    )


def rate_of(ends: Iterable[float]) -> float:
    """Return how many ended a second, from the first to the last."""
    moments = list(ends)
    return (len(moments) - 1) / (moments[-1] - moments[0])


CONTENDERS: dict[str, Callable[[int, Path], dict[str, float]]] = {
    OURS: ours,
    "bare actor pool": pool,
    "Tune, reused workers": tune_reused,
    "Tune, fresh workers": tune_fresh,
}


def measure(counts: dict[str, int], folder: Path) -> dict[str, dict[str, float]]:
    """Run contenders, one after the other, in a process that they have for themselves."""
    command = [sys.executable, "-m", "benchmarks.bench_orchestration"]
    given = [f"--contenders={json.dumps(counts)}", f"--folder={folder}"]
    done = subprocess.run([*command, *given], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{', '.join(counts)}: {done.stderr[-2000:]}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(argv: list[str] | None = None) -> None:
    """Print tables, and a line of JSON."""
    parser = options(__doc__, rounds=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--contenders", type=json.loads, help="run these, and print their JSON")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(argv)
    if given.contenders:
        found = {name: CONTENDERS[name](n, given.folder) for name, n in given.contenders.items()}
        print(json.dumps(found))
        return
    if given.quick:  # nothing is resumed
        given.rounds, given.sizes = 1, [8]
        with tempfile.TemporaryDirectory() as folder:
            found = measure(QUICK, Path(folder)) | measure({OURS: 8}, Path(folder))
        sizes = {8: found[OURS] | {"resume": 0.0}}
        rates = {name: [found[name]["rate"]] for name in CONTENDERS}
    else:
        rates = in_rounds(given.rounds, given.sizes[0])
        sizes = {count: at_size(count) for count in given.sizes}
    show(rates, sizes)
    versions = {name: importlib.metadata.version(name) for name in ("ray", "optuna")}
    report("orchestration", **versions, n=given.rounds, trials_a_second=rates, sizes=sizes)


def in_rounds(rounds: int, ours: int) -> dict[str, list[float]]:
    """Return trials a second of each contender, each time on a Ray of its own."""
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            with tempfile.TemporaryDirectory() as folder:
                counts = {name: COUNTS.get(name, ours)}
                rates[name].append(measure(counts, Path(folder))[name]["rate"])
    return rates


def at_size(count: int) -> dict[str, float]:
    """Run a study of so many trials, and then once more when it is finished."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure({OURS: count}, Path(folder))[OURS]
        command = [sys.executable, "-m", "orchestrator.study", f"{folder}/bench.yaml"]
        started = time.perf_counter()
        subprocess.run([*command, "--out", f"{folder}/out"], capture_output=True, check=True)
        return {**found, "resume": time.perf_counter() - started}


def show(rates: dict[str, list[float]], sizes: dict[int, dict[str, float]]) -> None:
    print("| trials that do nothing | trials a second: median (range) | ÷ fresh | ÷ reused |")
    print("|---|---|---|---|")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        spread = f"{medians[name]:.1f} ({min(found):.1f}-{max(found):.1f})"
        fresh, reused = medians["Tune, fresh workers"], medians["Tune, reused workers"]
        print(f"| {name} | {spread} | {medians[name] / fresh:.1f} | {medians[name] / reused:.2f} |")
    print("\n| our trials | ms each | planning, s | after the last, s | driver, MB | resume, s |")
    print("|---|---|---|---|---|---|")
    for count, size in sizes.items():
        cells = (
            *(f"{count:,}", f"{1000 / size['rate']:.1f}", f"{size['plan']:.2f}"),
            *(f"{size['after']:.1f}", f"{size['memory']:.0f}", f"{size['resume']:.1f}"),
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
