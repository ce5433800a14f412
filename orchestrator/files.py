"""Files that nobody ever sees half written."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> Path:
    """Write a file whole, aside and then renamed, and return its path."""
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file whole, aside and then renamed, and return its path."""
    aside = path.with_name(f".{path.name[-40:]}.{os.getpid()}.tmp")  # a name may be at its longest
    aside.write_bytes(content)
    return aside.replace(path)
