"""One run of the mirror as values: what it holds, and how it is written down."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

LONGEST_PARAM, LONGEST_TAG = 6000, 8000  # characters that MLflow takes
NOT_FINITE = "ulrl.not_finite"
TIMES = ("began", "ended")
STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A set of images that a run rests on.

    Attributes:
        digest: Of what fixes its content.
        context: What it is for, in a word or two.
        facts: Plain values that a person wants to know of it.
    """

    name: str
    digest: str
    context: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of the mirror, whole; the last record of a key is the one that counts.

    Attributes:
        key: Names the run for good: ``study``, a scenario's key or a trial's.
        parent: Key of the run it hangs under, recorded before it.
        name: What a person reads.
        metrics: Final values; a curve has another name.
        curves: Per metric, pairs of step and value.
        status: One of `STATUSES`.
        artifacts: Pairs of a local file and the run's folder for it, "" for the top.
        model: Plain values that say to the tracker's maker of models which one it is.
        registered: Name under which the model stands in the registry, or "".
        datasets: What the run rests on; the same name, digest and context once.
        experiment: Tags of the experiment, where the run is one that speaks for all of it.
        began: When its work began, in seconds since 1970; None is when its run is made. Like
            `ended`, it is no part of what tells records apart.
        ended: When its work ended; None is when it is first said to have.
    """

    key: str
    parent: str | None
    name: str
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str = "FINISHED"
    artifacts: tuple[tuple[str, str], ...] = ()
    model: Mapping[str, Any] | None = None
    registered: str = ""
    datasets: tuple[Dataset, ...] = ()
    experiment: Mapping[str, str] = field(default_factory=dict)
    began: float | None = None
    ended: float | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status is one of {', '.join(STATUSES)}; got {self.status!r}")


def fitted(record: Record) -> Record:
    """Return `record` within what MLflow takes; a tag names the numbers left out."""
    metrics = {name: float(value) for name, value in record.metrics.items() if isfinite(value)}
    curves = {
        name: tuple((step, float(value)) for step, value in points if isfinite(value))
        for name, points in record.curves.items()
    }
    left_out = [name for name in record.metrics if name not in metrics]
    for name, points in record.curves.items():
        left_out += [f"{name} at {step}" for step, value in points if not isfinite(value)]
    tags = {**record.tags, **({NOT_FINITE: ", ".join(left_out)} if left_out else {})}
    return replace(
        record,
        params={name: str(value)[:LONGEST_PARAM] for name, value in record.params.items()},
        metrics=metrics,
        curves=curves,
        tags={name: str(value)[:LONGEST_TAG] for name, value in tags.items()},
    )


def to_plain(record: Record) -> dict[str, Any]:
    """Return `record` but for its times as plain values, files with a hash of their content."""
    plain = {name: value for name, value in vars(record).items() if name not in TIMES}
    files = [(file, folder, _content_digest(Path(file))) for file, folder in record.artifacts]
    return {**plain, "artifacts": files, "datasets": [asdict(one) for one in record.datasets]}


def _content_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def digest_of(plain: Any) -> str:
    """Return the digest of JSON that is the same for equal values."""
    return text_digest(json.dumps(plain, sort_keys=True, allow_nan=False))


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
