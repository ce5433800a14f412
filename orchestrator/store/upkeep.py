"""Work on whole stores: what they hold, copies from one to another, what may go."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.plan.columns import DAY
from orchestrator.store.serialization import HELPER, PACE
from orchestrator.store.store import Holding, Store
from orchestrator.store.study_folder import StudyFolder

AGES = (1, 7, 30, 90)  # days that bound the classes of age
RECORD = "stages.csv"


@dataclass(kw_only=True)
class Total:
    """How many entries there are, and their bytes."""

    entries: int = 0
    size: int = 0

    def add(self, size: int) -> None:
        """Count one entry more."""
        self.entries += 1
        self.size += size


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What became of another store's entries.

    Attributes:
        copied: What the store lacked.
        there: How many it had.
        damaged: How many are not what was written, and were left out.
    """

    copied: Total
    there: int
    damaged: int


def contents(store: Store) -> list[Holding]:
    """Return what a store holds.

    Raises:
        SpecError: There is no store, or an empty one.
        ResourceError: It cannot be reached.
    """
    found = store.holdings()
    if not found:
        raise SpecError([f"{store.url}: is no store, or an empty one; no result is there"])
    return found


def by_stage(holdings: Iterable[Holding]) -> dict[str, Total]:
    """Return how much there is of each stage."""
    totals: dict[str, Total] = defaultdict(Total)
    for one in holdings:
        totals[one.stage].add(one.size)
    return dict(sorted(totals.items()))


def by_age(holdings: Iterable[Holding], now: float) -> dict[str, Total]:
    """Return how much there is of each class of age, the youngest first."""
    names = [_age(0, AGES[0])]
    names += [_age(low, high) for low, high in pairwise(AGES)]
    names += [_age(AGES[-1], None), "unknown"]
    totals = {name: Total() for name in names}
    for one in holdings:
        place = -1 if one.stored is None else sum(now - one.stored >= days * DAY for days in AGES)
        totals[names[place]].add(one.size)
    return {name: total for name, total in totals.items() if total.entries}


def _age(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} days or more"
    return f"less than {high} day" if not low else f"{low} to {high} days"


def merge(store: Store, source: Store, check: Callable[[], None] = lambda: None) -> Merged:
    """Copy what `source` has and `store` lacks, each entry whole or not at all.

    Args:
        store: May be a new one.
        source: The other one, which stays as it is.
        check: Called before each entry; what it raises ends the work.

    Raises:
        SpecError: One of them is no store, or both are the same.
        ResourceError: One of them cannot be used.
    """
    if _place(store) == _place(source):
        raise SpecError([f"{source.url}: is the store to merge into; name another"])
    theirs = contents(source)
    if store.is_something_else():
        raise SpecError([f"{store.url}: is no store; other files are there, and no result"])
    store.check()
    own = {(one.stage, one.key) for one in store.holdings()}
    copied, damaged = Total(), 0
    lacking = [one for one in theirs if (one.stage, one.key) not in own]
    for one in lacking:
        check()
        content = source.content(one.stage, one.key)
        if content is None:
            damaged += 1
            continue
        store.put(one.stage, one.key, content)
        copied.add(len(content))
    return Merged(copied=copied, there=len(theirs) - len(lacking), damaged=damaged)


def _place(store: Store) -> str:
    return store.url.reveal() if store.folder is None else str(store.folder.resolve())


def rested_on(folders: Iterable[Path]) -> tuple[set[str], list[Path]]:
    """Return the keys of all results that studies rest on, and the folders that are no study's.

    ``runs/*`` may name the folders: beside them lie others, a store among them, and files.

    Raises:
        SpecError: A folder is not there, or none of them is a study folder.
    """
    keys: set[str] = set()
    others = []
    places = list(folders)
    for folder in places:
        if (folder / RECORD).is_file():
            keys |= StudyFolder(folder).keys()
        elif folder.exists():
            others.append(folder)
        else:
            raise SpecError([f"{folder}: is not there; --keep names study folders"])
    if len(others) == len(places):
        raise SpecError([f"{others[0]}: no study folder; it has no {RECORD}"])
    return keys, [folder for folder in others if folder.is_dir()]


def outdated(
    holdings: Iterable[Holding], before: float, needed: Collection[str] | None
) -> list[Holding]:
    """Return the entries that may go: stored before a time, and not needed.

    Measured speeds always stay: they are small, and no result.

    Args:
        holdings: Of a store.
        before: In seconds since 1970.
        needed: Keys of results that stay, and with them all helpers of attacks: a study that found
            its victim does not list what the victim needed. None: no study is to stay.
    """
    stay = {PACE.name} if needed is None else {PACE.name, HELPER.name}
    return [
        one
        for one in holdings
        if one.stored is not None
        and one.stored < before
        and one.stage not in stay
        and one.key not in (needed or ())
    ]
