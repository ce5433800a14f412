"""The study files that come with the project, for a folder of the user's own."""

import sysconfig
from pathlib import Path

from orchestrator.errors import SpecError, unwritable


def _folder() -> Path:
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file():
        return checkout / "studies"
    return Path(sysconfig.get_path("data"), "share", "ulrl-orchestrator", "studies")


def examples() -> list[str]:
    """Return the names of the study files."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def write_example(name: str) -> str:
    """Write a study file into this folder and return its name.

    Raises:
        SpecError: There is no such example, or a file of its name is here already.
        ResourceError: It cannot be written.
    """
    known = examples()
    if name not in known:
        from orchestrator.spec.rules import nearest  # with pydantic: `--help` does not wait for it

        end = nearest(name, known, "the examples are")
        raise SpecError([f"command line: --example: no example is called {name!r}{end}"])
    path = Path(f"{name}.yaml")
    text = (_folder() / path).read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SpecError([f"command line: --example: {path} is here already"]) from None
    except OSError as error:
        raise unwritable(path, error) from None
    return str(path)
