"""docs/adding-an-attack.md, followed to the letter in a copy of the checkout."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/adding-an-attack.md").read_text(encoding="utf-8")
FILES = re.compile(r"Save this as `([^`]+)`:\n\n```\w+\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```console\n(.*?)```", re.DOTALL)


def test_the_page_works(tmp_path: Path) -> None:
    for name in ("ulrl", "orchestrator", "tests", "pyproject.toml"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    files = dict(FILES.findall(PAGE))
    assert list(files) == ["ulrl/attacks/frame.py", "frame.yaml"]
    for name, text in files.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert len(files["ulrl/attacks/frame.py"].splitlines()) < 45
    said = []
    for block in COMMANDS.findall(PAGE):
        for line in block.splitlines():
            words = shlex.split(line)
            assert words[:2] == ["python", "-m"]
            done = subprocess.run(
                [sys.executable, *words[1:]],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(tmp_path)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            said.append(done.stdout)
    assert len(said) == 3
    with Image.open(tmp_path / "frame.png") as picture:
        assert picture.width > 0
    passed = re.search(r"(\d+) passed", said[1])
    assert passed is not None
    shapes, rules = 4, 3  # of images, of labels
    assert int(passed[1]) >= shapes + rules, "the contract did not reach the new attack"
    with (tmp_path / "runs/frame/results.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert {row["attack"] for row in rows} == {"frame"}
    assert {row["attack_options"] for row in rows} == {"{}", '{"thickness": 2}'}
    assert {row["status"] for row in rows} <= {"done", "pruned"}
