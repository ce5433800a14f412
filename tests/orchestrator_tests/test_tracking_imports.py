"""MLflow is imported where Tune imports it too: in the main thread."""

import json
import subprocess
import sys
from pathlib import Path

WATCH = """
import json, sys, threading

class Watch:
    def find_spec(self, name, path=None, target=None):
        seen.append((threading.current_thread() is threading.main_thread(), name))

seen = []
sys.meta_path.insert(0, Watch())
"""
IMPORTED_BY_TUNE = "import ray.air.integrations.mlflow\n"
A_RECORD_DELIVERED = """
from pathlib import Path
from orchestrator.tracking.records import Record
from orchestrator.tracking.tracker import Tracker

tracker = Tracker(uri=sys.argv[1], experiment="e", outbox=Path(sys.argv[2]))
tracker.record(Record(key="study", parent=None, name="demo"))
delivery = tracker.close(60)
assert delivery.delivered == 1, delivery
"""


def test_no_other_thread_imports_what_tune_imports_in_the_main_one(tmp_path: Path) -> None:
    uri, outbox = f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "outbox.jsonl")
    theirs = {name for _, name in watched(IMPORTED_BY_TUNE) if name.startswith("mlflow")}
    ours = watched(A_RECORD_DELIVERED, uri, outbox)
    assert {"mlflow", "mlflow.entities", "mlflow.tracking"} <= theirs
    assert {name for main, name in ours if main} >= theirs
    assert {name for main, name in ours if not main} & theirs == set()


def watched(code: str, *arguments: str) -> list[tuple[bool, str]]:
    """Return the imports of some code, each with whether the main thread made it."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH + code + "print(json.dumps(seen))", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return [(main, name) for main, name in json.loads(done.stdout)]
