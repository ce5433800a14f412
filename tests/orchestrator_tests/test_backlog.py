"""What a person sees while MLflow takes what is left at the end of a study."""

import signal
from collections.abc import Callable, Sequence
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.terminal import Interrupts
from orchestrator.tracking.tracker import FlushProgress


class Clock:
    """Time as a test wants it."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Slow:
    """A tracker with so many records left at each look, four seconds apart."""

    def __init__(self, clock: Clock, left: Sequence[int]) -> None:
        self._clock, self._left = clock, left
        self.looks = 0
        self.hurried = self.makes_model = False

    def hurry(self) -> None:
        self.hurried = True

    def flush(self, *, quiet: float, look: Callable[[int], bool]) -> None:
        assert quiet > 60
        assert self.hurried, "nothing else is computed now"
        for left in self._left:
            self._clock.now += 4
            self.looks += 1
            if not look(left):
                return


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("orchestrator.tracking.tracker.time", clock)
    return clock


def console(*, terminal: bool = False) -> Console:
    return Console(file=StringIO(), force_terminal=terminal, width=100, highlight=False)


def output(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_short_wait_says_nothing(clock: Clock) -> None:
    place = console()
    FlushProgress(Slow(clock, [40]), place, Interrupts()).wait()  # type: ignore[arg-type]
    assert output(place) == ""


def test_a_long_wait_says_what_is_left_now_and_then(clock: Clock) -> None:
    place, tracker = console(), Slow(clock, [0, 0, 4200, 3800, 3400, 1])
    FlushProgress(tracker, place, Interrupts()).wait()  # type: ignore[arg-type]
    assert tracker.looks == 6
    assert output(place).splitlines() == [
        "MLflow does not answer yet; Ctrl-C leaves its records for the next start",
        "MLflow takes 3,400 more records, about 1:25; Ctrl-C leaves its records for the next start",
    ]


def test_lines_become_fewer_as_the_wait_grows(clock: Clock) -> None:
    place = console()
    FlushProgress(Slow(clock, range(900, 0, -1)), place, Interrupts()).wait()  # type: ignore[arg-type]
    assert 10 < len(output(place).splitlines()) < 30


def test_what_has_not_changed_is_not_said_again(clock: Clock) -> None:
    place, tracker = console(), Slow(clock, [19] * 40 + [18] * 40)
    tracker.makes_model = True
    FlushProgress(tracker, place, Interrupts()).wait()  # type: ignore[arg-type]
    first, second = output(place).splitlines()
    end = "; Ctrl-C leaves its records for the next start"
    assert first == f"MLflow takes 19 more records, now the files of a model{end}"
    assert second.startswith("MLflow takes 18 more records, now the files of a model, about ")


def test_a_terminal_shows_the_present_state(clock: Clock) -> None:
    place = console(terminal=True)
    FlushProgress(Slow(clock, [2, 1]), place, Interrupts()).wait()  # type: ignore[arg-type]
    assert "MLflow takes 1 more record, about 0:08; Ctrl-C" in output(place)
    assert output(place).count("\n") <= 1


def test_a_signal_ends_the_wait(clock: Clock) -> None:
    interrupts, tracker = Interrupts(), Slow(clock, [3, 2, 1])
    interrupts.signum = signal.SIGINT
    FlushProgress(tracker, console(), interrupts).wait()  # type: ignore[arg-type]
    assert tracker.looks == 1
