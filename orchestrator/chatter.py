"""What libraries say of their own accord: nothing, unless the user asks for it."""

import logging
import os

LIBRARIES = ("ray", "ray.data", "ray.train", "ray.tune", "timm")


def hush_libraries(*, verbose: bool) -> None:
    """Keep libraries' log messages and progress bars off the terminal unless `verbose`."""
    if verbose:
        return
    # Read when the library is imported; workers inherit them.
    os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "critical"}
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
