"""The store as one item's work sees it: what is taken from there, what is put there."""

from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias, TypeVar

from orchestrator.errors import FileChangedError
from orchestrator.plan.jobs import Progress, Site, StageRun
from orchestrator.plan.plan import Scenario
from orchestrator.store.keys import CacheKeys
from orchestrator.store.serialization import Stage
from orchestrator.store.store import Store
from ulrl.attacks import Step
from ulrl.models import ModelSpec

T = TypeVar("T")
C = TypeVar("C")
Making: TypeAlias = Generator[Progress, None, T]
# ACC, ASR and RA on the monitor subset; without an attack the first alone
Point: TypeAlias = tuple[float, float | None, float | None]


def reported(steps: Generator[Step, None, T], stage: str, curve: Sequence[Point] = ()) -> Making[T]:
    """Yield how far steps are, and return what they return.

    Args:
        steps: Of a helper's training or of a repair method's stage.
        stage: What people call it.
        curve: ACC, ASR and RA on the monitor subset, to which each step may add.
    """
    while True:
        try:
            done, total = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        yield Progress(stage=stage, epoch=done, epochs=total, curve=tuple(curve))


PAUSES = (0.05, 1.0)  # seconds between checks for another worker's result: the first, the longest


class CachedStages:
    """Reads results, stores new ones, and lists the stages that were executed.

    Attributes:
        runs: The stages executed for the present job so far.
    """

    def __init__(self, site: Site, keys: CacheKeys) -> None:
        self.store = Store(site.store)
        self._keys = keys
        self._study = site.study
        self.runs: list[StageRun] = []

    def once(
        self, stage: str, key: str, find: Callable[[], T | None], make: Callable[[], Making[T]]
    ) -> Making[T]:
        """Return a result that was not there: made here, or found once another has made it.

        All inputs are ready by now, so no two workers can wait for each other.
        """
        pause, longest = PAUSES
        with self.store.lock(stage, key) as lock:
            while not lock.acquire():
                yield Progress(stage=stage, epoch=0, epochs=0, pause=pause)
                if (found := find()) is not None:
                    return found
                pause = min(2 * pause, longest)
            if (found := find()) is not None:
                return found
            return (yield from make())

    def keep(
        self,
        stage: Stage[C],
        key: str,
        scenario: Scenario,
        seconds: float,
        content: C,
        model_spec: ModelSpec | None = None,
    ) -> StageRun:
        """Store a stage's result and list its execution.

        Raises:
            FileChangedError: What it was made from may not be what its key says. (An imported
                victim is read once, and as large as a model.)
        """
        if scenario.source is None and self._keys.changed(scenario):
            raise FileChangedError
        if stage.read(self.store, key, model_spec) is None:  # another study may have been faster
            stage.write(
                self.store, key, content, seconds=seconds, study=self._study, model_spec=model_spec
            )
        run = StageRun(
            stage=stage.name, key=key, scenario=scenario.text, seconds=seconds, study=self._study
        )
        self.runs.append(run)
        return run
