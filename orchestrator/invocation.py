"""Commands as the user can type them here and now."""

import shutil
import sys
from pathlib import Path


def program(name: str) -> str:
    """Return how to call a program of this environment: by name if the PATH finds it."""
    beside = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if found is not None and Path(found).absolute() == beside.absolute():
        return name
    return str(shown(beside)) if beside.exists() else name


def shown(path: Path) -> Path:
    """Return a path relative to the working directory where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
