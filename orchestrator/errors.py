"""What can go wrong for a user, and the exit code each has.

- ``StudyError``: anything the command ends with, but success
    - ``SpecError``: the study file or the command line is wrong (2)
    - ``ResourceError``: another driver holds the study, or cluster or store cannot be used (3)
    - ``Interrupted``: a signal that asks the study to end (128 + its number)
    - ``BudgetExhausted``: the study's budget is used up, and trials are left (4)
"""

import signal
from collections.abc import Sequence

from orchestrator.address import redacted


def sentence(error: BaseException) -> str:
    """Return what went wrong, in one line of at most 1,000 characters, without secrets."""
    lines = redacted(str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:1000]


class StudyError(Exception):
    """The command ends early; the text is all that the user needs to read."""

    exit_code = 1

    def __init__(self, text: str) -> None:
        super().__init__(redacted(text))


class SpecError(StudyError):
    """What the user wrote cannot be run; every mistake is listed, a line each."""

    exit_code = 2

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(map(redacted, lines))


class ResourceError(StudyError):
    """Something outside the study file is in the way: a lock, the cluster, the store."""

    exit_code = 3


def unwritable(place: object, error: OSError) -> StudyError:
    """Return what ends a command that cannot write to a path that the user named.

    Only a path that can never be written to is a mistake of the user's.
    """
    never = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
    text = f"{place}: cannot be written; {error.strerror or error}"
    return SpecError([text]) if isinstance(error, never) else ResourceError(text)


class StoreError(ResourceError):
    """What a worker just stored cannot be read: no result of this store can be trusted."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} was stored and cannot be read back; is the store on a path that all nodes see?"
        )


class FileChangedError(Exception):
    """A file that a scenario names is no longer the one that its results are keyed by."""

    def __init__(self) -> None:
        super().__init__(
            "a file that the scenario names changed while the study ran; run the same command "
            "again to work with the new one"
        )


class Interrupted(StudyError):  # noqa: N818 - as signals are called
    """The user, or a scheduler of the machine, asked the study to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class BudgetExhausted(StudyError):  # noqa: N818 - the run ends, nothing is wrong
    """The budget of this start is used up before all is done."""

    exit_code = 4


class TimeLimitExceeded(Exception):  # noqa: N818 - a limit that was reached, not an error of ours
    """The item worked longer than its limit."""
