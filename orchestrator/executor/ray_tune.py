"""Ray Tune, which runs a study on the Ray that this process is part of."""

import uuid
import warnings
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from orchestrator.errors import ResourceError
from orchestrator.executor import ray_setup
from orchestrator.executor.ray_cluster import Membership
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.stages import StageRunner
from orchestrator.plan.jobs import Site
from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import Shares
from orchestrator.processes import scratch
from orchestrator.scheduler.batches import BatchProgress, JobBatch, TuneSession
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.spec.model import Study
from orchestrator.terminal import Interrupts

_LIVE: dict[str, TuneSession] = {}  # Tune pickles what it is given; this stays in the driver


class Worker(tune.Trainable):
    """A worker process, which keeps what it has loaded from batch to batch."""

    def setup(  # type: ignore[override]
        self,
        config: dict[str, Any],
        study: Study,
        site: Site,
        runner: type[StageRunner],
    ) -> None:
        warnings.simplefilter("ignore")  # the driver's terminal is for the study
        self._runner = runner(replace(site, expendable=True), study.victim)
        self._catalog = JobCatalog(make_plan(study))
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._batch.close()
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Work until there is something to report."""
        news = self._batch.work()
        return {"done": news.over, "news": news}

    def cleanup(self) -> None:
        self._batch.close()

    def save_checkpoint(self, checkpoint: Any) -> None:
        """Results are in the store; there is nothing else to save."""

    load_checkpoint = save_checkpoint

    def _take(self, config: dict[str, Any]) -> None:
        items = [self._catalog.named(name, drawn) for name, drawn in config["items"]]
        self._batch = JobBatch(self._runner, items)


class _StudySearcher(Searcher):
    """Tune's source of trials: the scheduler's items, a batch each."""

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


class _StudyTrialScheduler(TrialScheduler):
    """Tune's scheduler: hears every result, and stops what the scheduler gives up."""

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
        return isinstance(news, BatchProgress) and _LIVE[self._session].take(trial.trial_id, news)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        del tune_controller
        _LIVE[self._session].lost(trial.trial_id, ray_setup.reason_of(trial.error_file))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """The feed knows."""

    on_trial_remove = on_trial_add

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        for trial in tune_controller.get_live_trials():
            if trial.status == "PENDING":
                return trial
        return None

    def debug_string(self) -> str:
        return "the study scheduler decides"


class _StopCallback(tune.Callback):
    """Ends Tune's loop when the study has to end."""

    def __init__(self, session: str) -> None:
        self._session = session

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        _LIVE[self._session].interrupts.listen()  # Tune sets a handler of its own for SIGUSR1

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        _LIVE[self._session].check()


def run_on_ray(
    scheduler: StudyScheduler,
    site: Site,
    shares: Shares,
    member: Membership,
    interrupts: Interrupts,
    runner: type[StageRunner] = StageRunner,
) -> None:
    """Run a study to its end on Ray Tune, on the Ray that this process is part of.

    Tune gets a new Tuner at every start, fed from what the store says is left: its own
    restore keeps neither the scheduler's state nor what ran since its last snapshot.

    Raises:
        ResourceError: The Ray is too small, or ends under the study.
    """
    plan = scheduler.plan
    shares.workers(member.nodes, plan.scenarios)  # refuses what could never run
    likely = lru_cache(maxsize=1)(lambda nodes: shares.likely(nodes, plan.scenarios))
    token = uuid.uuid4().hex
    session = _LIVE[token] = TuneSession(
        scheduler, interrupts, shares, lambda: likely(member.nodes)
    )
    try:
        with scratch() as folder, member.guard.handling(session.fail):
            trainable = tune.with_resources(
                tune.with_parameters(
                    Worker,
                    study=plan.study,
                    site=site,
                    runner=runner,
                ),
                _request,
            )
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=_StudySearcher(token),
                    scheduler=_StudyTrialScheduler(token),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    storage_path=str(folder),
                    verbose=0,
                    callbacks=[_StopCallback(token)],
                    failure_config=tune.FailureConfig(max_failures=0),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            with interrupts.watched():
                tuner.fit()
                session.check()
    except ResourceError:
        raise
    except Exception as error:
        session.check()  # what was meant to end the study, not how Tune wrapped it
        raise ResourceError(f"Ray ended the study: {error}") from error
    finally:
        del _LIVE[token]


def _request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """Return what a Tune trial's worker takes: all of it where the worker is, in one bundle."""
    return tune.PlacementGroupFactory([{"CPU": config["cpu"], "GPU": config["gpu"]}])
