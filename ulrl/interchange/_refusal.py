"""The one error of this package, and how words from a stranger's file are shown."""

from pathlib import Path

LONGEST = 80  # characters of a name or a value from a file that a message repeats


class ImportRefused(Exception):  # noqa: N818 - a refusal is an answer, not a failure
    """Something from outside is not taken in; one line says where, which rule and what to do."""


def shown(value: object) -> str:
    """Return a value from a file for a message: on one line, short, without control characters."""
    text = ascii(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def reason_of(error: object) -> str:
    """Return what another library said, on one short line."""
    text = " ".join(str(error).split())
    return ascii(text[: 2 * LONGEST])[1:-1]


def inside(root: Path, name: str) -> Path:
    """Return the real path of `name` in the folder `root`.

    Raises:
        ImportRefused: It is not there, or a link leads out of the folder.
    """
    path = root / name
    try:
        home, real = root.resolve(strict=True), path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # the latter for links in a circle
        raise ImportRefused(f"{path} is not there; copy the folder as a whole") from error
    if not real.is_relative_to(home):
        raise ImportRefused(
            f"{path} leads out of {root}, and only what lies in the folder is read; copy the "
            f"file to where the link is"
        )
    return real


def inside_file(root: Path, name: str) -> Path:
    """Return the real path of the regular file `name` in the folder `root`.

    Raises:
        ImportRefused: As `inside`; or it is a folder, a device or a pipe.
    """
    real = inside(root, name)
    if not real.is_file():
        raise ImportRefused(f"{root / name} is no regular file; put the file itself there")
    return real
