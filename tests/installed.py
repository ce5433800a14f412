"""Programs that some tests need and Python cannot bring: there, or the test says so."""

import os
import shutil
from pathlib import Path

import pytest

DEBIAN = "/usr/lib/postgresql/*/bin"  # not on the path: several versions live side by side


def program(name: str, package: str) -> str:
    """Return the path of an installed program; without it, skip, or fail where CI says so."""
    found = shutil.which(name)
    if found is None:
        *_, found = ("", *sorted(str(path) for path in Path("/").glob(f"{DEBIAN[1:]}/{name}")))
    if found:
        return found
    reason = f"{name} is not installed; on Debian it is in {package} (make system-packages)"
    if os.environ.get("ULRL_ALL_INSTALLED"):
        pytest.fail(reason)
    pytest.skip(reason)
