"""The end of a command's process."""

import atexit
import logging
import os
import sys
from collections.abc import Callable

from orchestrator.streams import be_tolerant


def as_process(main: Callable[[], int]) -> int:
    """Be what a process runs, and let it end at once when that has returned its exit code.

    Python takes every object apart at the end: after a study those are 600,000, of torch, Ray
    and MLflow, and the prompt comes back two seconds later. What was registered for the end
    still runs, threads are waited for, and an exception ends the process in Python's own way.
    What it prints cannot change its exit code.
    """
    be_tolerant()
    codes: list[int] = []
    atexit.register(_leave, codes)  # the first to be registered is the last to run
    codes.append(main())
    return codes[0]


def _leave(codes: list[int]) -> None:
    if not codes:
        return
    logging.shutdown()  # perhaps registered before this
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # none, gone or closed: Python has a word
            return
    os._exit(codes[0])
