"""Ray Tune: the executor for a machine's cores, its GPUs, or a cluster."""

import logging
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from orchestrator import rayside
from orchestrator.catalogue import Catalogue
from orchestrator.conductor import Conductor
from orchestrator.definition import Study
from orchestrator.errors import Unusable
from orchestrator.guard import Guard
from orchestrator.machine import Node, Shares, this_machine
from orchestrator.plan import Scenario, make_plan
from orchestrator.session import Session
from orchestrator.shift import News, Shift
from orchestrator.signals import Interrupts
from orchestrator.store import Store
from orchestrator.work import Site
from orchestrator.workshop import Workshop

_LIVE: dict[str, Session] = {}  # Tune pickles what it is given; this stays behind


class Worker(tune.Trainable):
    """A process that works one shift after another, everything loaded kept."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], study: Study, site: Site, workshop: type[Workshop]
    ) -> None:
        warnings.simplefilter("ignore")  # the driver's terminal is for the study
        self._workshop = workshop(replace(site, expendable=True), study.victim)
        self._catalogue = Catalogue(make_plan(study))
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._shift.close()
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Work until there is something to tell."""
        news = self._shift.work()
        return {"done": news.over, "news": news}

    def cleanup(self) -> None:
        self._shift.close()

    def save_checkpoint(self, checkpoint: Any) -> None:
        """Results are in the store; there is nothing else to save."""

    load_checkpoint = save_checkpoint

    def _take(self, config: dict[str, Any]) -> None:
        items = [self._catalogue.item(name, drawn) for name, drawn in config["items"]]
        self._shift = Shift(self._workshop, items)


class _Feed(Searcher):
    """Tune's source of trials: the conductor's items, a shift each."""

    def __init__(self, session: str) -> None:
        super().__init__()
        self._session = session

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        session = _LIVE[self._session]
        items, share = session.hand_out(trial_id)
        if items:
            return {"items": items, "cpu": share.cpu, "gpu": share.gpu}
        return Searcher.FINISHED if session.complete else None

    def on_trial_complete(self, trial_id: str, *args: Any, **kwargs: Any) -> None:
        """The scheduler has heard of it."""

    def save(self, checkpoint_path: str) -> None:
        """The store and the study folder are all there is to resume from."""

    restore = save


class _Ears(TrialScheduler):
    """Tune's scheduler: hears every result, and stops what the conductor gives up."""

    def __init__(self, session: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._session = session

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        del tune_controller
        stop = self._take(trial, result)
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        del tune_controller
        self._take(trial, result)

    def _take(self, trial: Any, result: dict[str, Any]) -> bool:
        news = result.get("news")
        return isinstance(news, News) and _LIVE[self._session].take(trial.trial_id, news)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        del tune_controller
        _LIVE[self._session].lost(trial.trial_id, rayside.reason_of(trial.error_file))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """The feed knows."""

    on_trial_remove = on_trial_add

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        for trial in tune_controller.get_live_trials():
            if trial.status == "PENDING":
                return trial
        return None

    def debug_string(self) -> str:
        return "the conductor decides"


class _Pulse(tune.Callback):
    """Ends Tune's loop when the study has to end."""

    def __init__(self, session: str) -> None:
        self._session = session

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        _LIVE[self._session].check()


@contextmanager
def joined(address: str, study: Study, store: Store) -> Iterator[tuple[Node, ...]]:
    """Be part of a running cluster, and return its nodes, each found fit for a study.

    Raises:
        Unusable: There is no such cluster, a node lacks what a study needs, or does not see
            the store.
    """
    rayside.configure(study.resources.cpu)
    rayside.knock(address)
    here = Path(__file__).resolve().parent
    code = {"py_modules": [str(here), str(here.parent / "ulrl")]}
    variables = {"env_vars": {"OMP_NUM_THREADS": str(study.resources.cpu)}}
    _init(f"the Ray cluster at {address}", address=address, runtime_env=code | variables)
    try:
        with store.beacon() as beacon:
            yield survey(store.url, beacon)
    finally:
        ray.shutdown()


@contextmanager
def embedded(
    study: Study, shares: Shares, scenarios: Sequence[Scenario]
) -> Iterator[tuple[Node, ...]]:
    """Run a Ray of one's own on this machine, and return its one node."""
    rayside.configure(study.resources.cpu)
    mark, most = uuid.uuid4().hex, max(share.cpu for share in shares.all(scenarios))
    with ExitStack() as stack:
        folder = stack.enter_context(rayside.scratch())
        stack.callback(rayside.sweep, mark)
        stack.callback(ray.shutdown)
        short = {"_temp_dir": str(folder)} if len(str(folder)) < rayside.SHORT else {}
        with rayside.marked(mark):
            _init(
                "an embedded Ray",
                address="local",  # whatever else runs on this machine
                num_cpus=rayside.embedded_cpus(study.resources, most),
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **short,
            )
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        memory = this_machine().memory
        yield (Node(cpus=there.get("CPU", 0), gpus=there.get("GPU", 0), memory=memory),)


def run_on_ray(
    conductor: Conductor,
    site: Site,
    shares: Shares,
    nodes: Sequence[Node],
    interrupts: Interrupts,
    errors: Console,
    workshop: type[Workshop] = Workshop,
) -> None:
    """Run a study to its end on Ray Tune, on the Ray that this process is part of.

    Tune gets a new Tuner at every start, fed from what the store says is left: its own
    restore keeps neither the scheduler's state nor what ran since its last snapshot.

    Raises:
        Unusable: The Ray is too small, or ends under the study.
    """
    plan = conductor.plan
    workers = shares.workers(nodes, plan.scenarios)
    token = uuid.uuid4().hex
    session = _LIVE[token] = Session(conductor, interrupts, shares, workers)
    try:
        with rayside.scratch() as folder, Guard(_vital(), session.fail, errors):
            trainable = tune.with_resources(
                tune.with_parameters(Worker, study=plan.study, site=site, workshop=workshop),
                _request,
            )
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=_Feed(token),
                    scheduler=_Ears(token),
                    num_samples=-1,
                    max_concurrent_trials=workers,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    storage_path=str(folder),
                    verbose=0,
                    callbacks=[_Pulse(token)],
                    failure_config=tune.FailureConfig(max_failures=0),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            with interrupts.watched():
                tuner.fit()
                session.check()
    except Unusable:
        raise
    except Exception as error:
        session.check()  # what was meant to end the study, not how Tune wrapped it
        raise Unusable(f"Ray ended the study: {error}") from error
    finally:
        del _LIVE[token]


def _request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """Return what a Tune trial's worker takes: all of it where the worker is, in one bundle."""
    return tune.PlacementGroupFactory([{"CPU": config["cpu"], "GPU": config["gpu"]}])


def _init(what: str, **arguments: Any) -> None:
    try:
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **arguments)
    except Exception as error:  # a start that takes too long raises a bare one
        raise Unusable(f"{what} cannot be used ({error})") from error


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _vital() -> list[tuple[str, int]]:
    """Return where the processes listen that this one cannot do without: head, own raylet."""
    context = ray.get_runtime_context()
    own = next(node for node in _nodes() if node["NodeID"] == context.get_node_id())
    raylet = (own["NodeManagerAddress"], own["NodeManagerPort"])
    return [rayside.place_of(context.gcs_address), raylet]


def survey(store: str, beacon: str) -> tuple[Node, ...]:
    """Return the nodes of this Ray, once each has said that a study can run there.

    Raises:
        Unusable: One of them cannot.
    """
    nodes = _nodes()
    looks = [
        ray.remote(rayside.examine())
        .options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote(store, beacon)
        for node in nodes
    ]
    return tuple(map(_answered, nodes, looks))


def _answered(node: dict[str, Any], look: Any) -> Node:
    name, seconds = rayside.name_of(node), rayside.LOOK_SECONDS
    try:
        return rayside.fit_node(node, ray.get(look, timeout=seconds))
    except ray.exceptions.GetTimeoutError as error:
        raise Unusable(f"{name} does not answer in {seconds:g} seconds") from error
    except ray.exceptions.RayError as error:
        raise Unusable(f"{name} cannot run a study: {rayside.last_line(error)}") from error
