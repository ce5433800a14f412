"""What can go wrong for a user, and the exit code each has.

- ``Stop``: anything the command ends with, but success
    - ``Mistakes``: the study file or the command line is wrong (2)
    - ``Unusable``: another driver holds the study, or cluster or store cannot be used (3)
    - ``Interrupted``: a signal that asks the study to end (128 + its number)
    - ``Spent``: the study's budget is used up, and trials are left (4)
"""

import signal
from collections.abc import Sequence

from orchestrator.address import redacted


def sentence(error: BaseException) -> str:
    """Return what went wrong, in one short line without secrets."""
    lines = redacted(str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


class Stop(Exception):  # noqa: N818 - an interruption is not an error
    """The command ends early; the text is all that the user needs to read."""

    exit_code = 1

    def __init__(self, text: str) -> None:
        super().__init__(redacted(text))


class Mistakes(Stop):
    """What the user wrote cannot be run; every mistake is listed, a line each."""

    exit_code = 2

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(map(redacted, lines))


class Unusable(Stop):
    """Something outside the study file is in the way: a lock, the cluster, the store."""

    exit_code = 3


def unwritable(place: object, error: OSError) -> Stop:
    """Return what ends a command that cannot write to a path that the user named.

    Only a path that can never be written to is a mistake of the user's.
    """
    never = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
    text = f"{place}: cannot be written; {error.strerror or error}"
    return Mistakes([text]) if isinstance(error, never) else Unusable(text)


class Vanished(Unusable):
    """What a worker just stored cannot be read: no result of this store can be trusted."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} was stored and cannot be read back; is the store on a path that all nodes "
            f"see, and did no file that the study names change while it ran?"
        )


class Interrupted(Stop):
    """The user, or a scheduler of the machine, asked the study to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Spent(Stop):
    """The budget of this start is used up before all is done."""

    exit_code = 4


class Overdue(Exception):  # noqa: N818 - a limit that was reached, not an error of ours
    """The item worked longer than its limit."""
