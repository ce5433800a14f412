"""Decoded images: mapped, made again when damaged, beside a root that cannot be written."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ulrl_tests.dataset_files import Sample
from tests.ulrl_tests.dataset_server import serving
from ulrl.datasets import DatasetError

NOBODY = 65534


def decoded(sample: Sample, home: Path) -> Path:
    return home / "decoded" / f"{sample.name}-1"


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# The decoded form.


def test_images_are_mapped_and_writing_to_them_changes_no_file(
    sample: Sample, tmp_path: Path
) -> None:
    sample.put(tmp_path)
    images = sample.dataset(tmp_path).load()
    maps = Path("/proc/self/maps").read_text()
    for name in sample.truth:
        assert f"{decoded(sample, tmp_path)}/{name}.npy" in maps
    before = snapshot(tmp_path)
    images.train_images.zero_()
    assert snapshot(tmp_path) == before
    sample.check(sample.dataset(tmp_path).load())


def test_decoded_images_are_all_that_is_needed(sample: Sample, tmp_path: Path) -> None:
    sample.put(tmp_path)
    assert list(sample.dataset(tmp_path).fetch())
    for name in sample.archives:
        (tmp_path / name).unlink()
    dataset = sample.dataset(tmp_path, download=False)
    assert list(dataset.fetch()) == []
    sample.check(dataset.load())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def fill(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


@pytest.mark.parametrize("damage", [truncate, fill, Path.unlink])
@pytest.mark.parametrize("file", ["train_images.npy"])
def test_damaged_decoded_files_are_made_again(
    sample: Sample, tmp_path: Path, damage: Callable[[Path], None], file: str
) -> None:
    sample.put(tmp_path)
    dataset = sample.dataset(tmp_path)
    held = dataset.load()
    before = snapshot(decoded(sample, tmp_path))
    # Who reads while the files are replaced keeps what it has.
    shutil.copytree(decoded(sample, tmp_path), tmp_path / "copy")
    decoded(sample, tmp_path).rename(tmp_path / "held")
    (tmp_path / "copy").rename(decoded(sample, tmp_path))
    damage(decoded(sample, tmp_path) / file)
    sample.check(dataset.load())
    sample.check(held)
    assert snapshot(decoded(sample, tmp_path)) == before
    names = {path.name for path in (tmp_path / "decoded").iterdir()}
    assert names == {f"{sample.name}-1", f".{sample.name}.lock"}


def test_a_set_of_other_class_counts_is_refused(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.put(tmp_path)
    info = sample.source.info
    first, *others, last = info.train_counts
    other = replace(info, train_counts=(first + 1, *others, last - 1))
    monkeypatch.setattr(f"{sample.module}.SOURCE", replace(sample.source, info=other))
    with pytest.raises(DatasetError, match=f"not {first + 1}|has {first} "):
        sample.dataset(tmp_path, download=False).load()
    assert not decoded(sample, tmp_path).exists()


def test_fetching_can_be_left_at_any_point(sample: Sample, tmp_path: Path) -> None:
    with serving(sample.archives) as site:
        for steps in range(1, 20):
            dataset = sample.dataset(tmp_path, mirror=site.url)
            fetching = dataset.fetch()
            assert isinstance(fetching, Iterator)
            taken = [step for step, _ in zip(fetching, range(steps), strict=False)]
            fetching.close()  # type: ignore[attr-defined]
            names = {path.name for path in (tmp_path / "decoded").iterdir()}
            assert names <= {f"{sample.name}-1", f".{sample.name}.lock"}
            if not taken:
                break
        sample.check(dataset.load())


# Roots that cannot be written.


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of a user who is not root, since root may write anywhere."""
    home = Path(tempfile.mkdtemp())
    home.chmod(0o755)
    before = os.geteuid()
    if before == 0:
        os.chown(home, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield home
    finally:
        for path in home.rglob("*"):
            if path.is_dir():
                path.chmod(0o755)
        os.seteuid(before)
        shutil.rmtree(home)


def lock_away(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))


def test_a_read_only_root_that_holds_the_archives(
    sample: Sample, as_nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(as_nobody / "cache"))
    root = as_nobody / "root"
    sample.put(root)
    lock_away(root)
    before = snapshot(root)
    sample.check(sample.dataset(root).load())
    assert snapshot(root) == before
    assert decoded(sample, as_nobody / "cache/ulrl").is_dir()
    assert list(sample.dataset(root).fetch()) == []


def test_nowhere_to_write(sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DatasetError) as error:
        sample.dataset(tmp_path / "file").load()
    text = f"{sample.name} cannot be decoded: [Errno 20] Not a directory: "
    assert str(error.value).startswith(text)
    assert str(error.value).endswith("; name a folder with root:")


def test_a_full_disk(sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.put(tmp_path)

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ulrl.datasets._decoded.os.fsync", full)
        with pytest.raises(DatasetError) as error:
            sample.dataset(tmp_path).load()
    assert str(error.value) == (
        f"{sample.name} cannot be decoded into {decoded(sample, tmp_path)}: [Errno 28] No space "
        f"left on device"
    )
    assert [path.name for path in (tmp_path / "decoded").iterdir()] == [f".{sample.name}.lock"]
    sample.check(sample.dataset(tmp_path).load())
