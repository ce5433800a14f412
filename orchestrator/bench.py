"""One item from start to end, as every executor runs it."""

import traceback
from collections.abc import Generator
from typing import TypeAlias

from orchestrator.errors import Unusable
from orchestrator.work import Finished, Item, Progress
from orchestrator.workshop import Workshop
from ulrl.attacks import PictureError
from ulrl.datasets import DatasetError
from ulrl.interchange import ImportRefused
from ulrl.models import WeightsError

# Errors whose text names places, of which results hold none, and what they are about: the
# first that fits.
PLACED: dict[type[Exception], str] = {
    PictureError: "the attack's picture",
    DatasetError: "the dataset",
    ImportRefused: "the imported victim",
    WeightsError: "the weights to start from",
}

Steps: TypeAlias = Generator[Progress, None, Finished]


def steps_of(workshop: Workshop, item: Item) -> Steps:
    """Work on an item, yielding progress; an exception becomes its result.

    What a user's data or model raises belongs to the one trial; only a store that cannot
    be used concerns all of them.
    """
    try:
        runs = yield from workshop.work(item)
    except Unusable as error:
        return Finished(error=str(error), fatal=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this item's result
        told = " ".join(str(error).split()) or "no message"
        about = [what for kind, what in PLACED.items() if isinstance(error, kind)]
        kept = f"{about[0]} cannot be used; the log says why" if about else told
        kind = type(error).__name__
        return Finished(
            runs=workshop.executed,
            error=f"{kind}: {kept}"[:500],
            told=f"{kind}: {told}"[:1000],
            trace=traceback.format_exc(),
        )
    return Finished(runs=runs)
