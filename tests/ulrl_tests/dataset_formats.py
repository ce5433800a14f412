"""How published datasets are written: pickles of Python 2, images, archives, checksums."""

import hashlib
import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.uint8]


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def python2_pickle(value: Any) -> bytes:
    """Return plain values and arrays of bytes as Python 2 pickled them (protocol 2)."""
    return b"\x80\x02" + _instructions(value) + b"."


def _instructions(value: Any) -> bytes:
    match value:
        case None:
            code = b"N"
        case bool():
            code = b"\x88" if value else b"\x89"
        case int():
            code = b"J" + struct.pack("<i", value)
        case str() | bytes():  # Python 2 knew no difference
            raw = value.encode("latin1") if isinstance(value, str) else value
            code = b"T" + struct.pack("<i", len(raw)) + raw
        case tuple():
            code = b"(" + b"".join(map(_instructions, value)) + b"t"
        case list():
            code = b"](" + b"".join(map(_instructions, value)) + b"e"
        case dict():
            pairs = (_instructions(key) + _instructions(item) for key, item in value.items())
            code = b"}(" + b"".join(pairs) + b"u"
        case np.ndarray():
            code = _array(value)
        case _:
            raise TypeError(f"{value!r} is not written here")
    return code


def _array(value: Pixels) -> bytes:
    kind = b"cnumpy\ndtype\n" + _instructions(("u1", 0, 1)) + b"R"
    kind += _instructions((3, "|", None, None, None, -1, -1, 0)) + b"b"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
    empty += _instructions((0,)) + _instructions("b") + b"tR"
    state = _instructions(1) + _instructions(value.shape) + kind + b"\x89"
    return empty + b"(" + state + _instructions(value.tobytes()) + b"tb"


def encoded(pixels: Pixels, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def zip_of(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()
