"""Ray Tune: the executor for a machine's cores, its GPUs, or a cluster."""

import logging
import shutil
import tempfile
import uuid
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from orchestrator.catalogue import Catalogue
from orchestrator.conductor import Conductor
from orchestrator.definition import Study
from orchestrator.errors import Unusable
from orchestrator.plan import make_plan
from orchestrator.rayside import configure, embedded_cpus, knock
from orchestrator.resources import Resources
from orchestrator.session import Session
from orchestrator.shift import News, Shift
from orchestrator.signals import Interrupts
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

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Results are in the store; there is nothing else to save."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing was saved."""

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
        items = session.hand_out(trial_id)
        if items:
            return {"items": items}
        return Searcher.FINISHED if session.complete else None

    def on_trial_complete(self, trial_id: str, *args: Any, **kwargs: Any) -> None:
        """The scheduler has heard of it."""

    def save(self, checkpoint_path: str) -> None:
        """The store and the study folder are all there is to resume from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


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
        lines = str(trial.get_error() or "no reason given").strip().splitlines()
        _LIVE[self._session].lost(trial.trial_id, lines[-1])

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """The feed knows."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """The feed knows."""

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


def run_on_ray(
    conductor: Conductor,
    site: Site,
    address: str | None,
    interrupts: Interrupts,
    workshop: type[Workshop] = Workshop,
) -> None:
    """Run a study to its end on Ray Tune: embedded, or on the cluster at `address`.

    Tune gets a new Tuner at every start, fed from what the store says is left: its own
    restore keeps neither the scheduler's state nor what ran since its last snapshot.

    Raises:
        Unusable: There is no such cluster, or it is too small.
    """
    study = conductor.plan.study
    resources = study.resources
    configure()
    _connect(address, resources)
    token = uuid.uuid4().hex
    session = _LIVE[token] = Session(conductor, interrupts)
    scratch = tempfile.mkdtemp(prefix="ulrl-tune-")
    try:
        session.workers = _workers(resources, site.gpu)
        trainable = tune.with_resources(
            tune.with_parameters(Worker, study=study, site=site, workshop=workshop),
            tune.PlacementGroupFactory([{"CPU": resources.cpu, "GPU": site.gpu}]),
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Feed(token),
                scheduler=_Ears(token),
                num_samples=-1,
                max_concurrent_trials=session.workers,
                reuse_actors=True,
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
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
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _folder_name(trial: Any) -> str:
    return str(trial.trial_id)


def _connect(address: str | None, resources: Resources) -> None:
    if address is not None:
        knock(address)
    try:
        if address is None:
            ray.init(
                address="local",  # whatever else runs on this machine
                num_cpus=embedded_cpus(resources),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                _node_ip_address="127.0.0.1",
            )
        else:
            package = Path(__file__).resolve().parent
            modules = [str(package), str(package.parent / "ulrl")]
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                runtime_env={"py_modules": modules},
            )
    except Exception as error:  # a start that takes too long raises a bare one
        where = "an embedded Ray" if address is None else f"the Ray cluster at {address}"
        raise Unusable(f"{where} cannot be used ({error})") from error


def _workers(resources: Resources, gpu: float) -> int:
    """Return how many trials run at once, or refuse a request that would wait for ever."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = there.get("CPU", 0), there.get("GPU", 0)
    room = int(cpus // resources.cpu)
    if gpu:
        room = min(room, int(gpus) * int(1 // gpu) if gpu <= 1 else int(gpus // gpu))
    wanted = resources.workers or room
    if room < max(1, wanted):
        raise Unusable(
            f"resources asks for {max(1, wanted)} workers of {resources.cpu} CPU and {gpu:g} GPU; "
            f"this Ray has {cpus:g} CPUs and {gpus:g} GPUs, which is room for {room}"
        )
    return wanted
