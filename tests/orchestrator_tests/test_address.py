"""Addresses do not print their secrets, nor does anything that a study writes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import address
from orchestrator.address import Address, redacted
from orchestrator.errors import ResourceError, SpecError, sentence
from orchestrator.pipeline.run_job import steps_of
from orchestrator.report import main as report
from orchestrator.scheduler.storage_mirror import _line
from orchestrator.spec.load import load_study
from orchestrator.store.store import Store
from orchestrator.study import main

SECRET = "hunter2hunter2"
PARTS = ("hunter2", "2hunt", "hunter")
# As the user writes it, and as it may be shown.
CASES = {
    f"http://joe:{SECRET}@host": "http://***@host",
    f"http://{SECRET}@host": "http://***@host",
    "http://joe:hunter2/hunter2@host": "http://***@host",
    "http://joe:p@hunter2/hunter2@host/x": "http://***@host/x",
    "http://joe:hunter2?hunter2@host": "http://***@host",
    f"http://joe:{SECRET}@[::1]:5000": "http://***@[::1]:5000",
    f"http://joe:%40{SECRET}@host": "http://***@host",
    f"postgresql://host/db?user=joe&password={SECRET}": (
        "postgresql://host/db?user=joe&password=***"
    ),
    f"postgresql+psycopg2://joe:{SECRET}@host/db?sslmode=require": (
        "postgresql+psycopg2://***@host/db?sslmode=require"
    ),
    f"mysql://h/d?pwd={SECRET};a=b": "mysql://h/d?pwd=***;a=b",
    "mysql://h/d?password=hunter2&hunter2": "mysql://h/d?password=***&***",
    "mysql://h/d?password=hunter2@hunter2": "mysql://h/d?password=***",
    f"sqlite:////a/b.db?key={SECRET}": "sqlite:////a/b.db?key=***",
    f"mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3D{SECRET}": (
        "mssql+pyodbc:///?odbc_connect=***"
    ),
    f"s3://key:{SECRET}@bucket/x": "s3://***@bucket/x",
    **{
        f"az://c/x?{name}={SECRET}": f"az://c/x?{name}=***"
        for name in (
            *("token", "access_token", "secret", "key", "access_key", "sig", "signature"),
            *("X-Amz-Signature", "X-Amz-Credential", "credential", "sslpassword", "PASSWORD"),
        )
    },
}
PLAIN = [
    *("runs/store", "/a/b@c", "sqlite:////home/me@work/a.db?timeout=30", "http://host:5000/x"),
    *("http://[::1]:5000", "s3://bucket/me@lab/x", "postgresql://joe@host/db", "10.0.0.1:6379"),
    *("auto", "gs://bucket/a?b=c", "sftp://joe@host/x", "http://***@host"),
]


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    """Forget in the end what these tests made known."""
    before = set(address._known)
    yield
    address._known.clear()
    address._known.update(before)


def clear(text: str) -> bool:
    return not any(part in text for part in PARTS)


@pytest.mark.parametrize(("text", "shown"), CASES.items())
def test_an_address_shows_no_secret(text: str, shown: str) -> None:
    one = Address(text)
    assert (str(one), f"{one}", f"{one:>1}", "%s" % one) == (shown,) * 4  # noqa: UP031
    assert repr(one) == f"Address({shown!r})"
    assert clear(repr({"a": [one]}))
    assert one.reveal() == text
    assert redacted(f"at '{text}'.") == f"at '{shown}'."


@pytest.mark.parametrize("text", PLAIN)
def test_an_address_without_secrets_is_shown_as_it_is(text: str) -> None:
    assert str(Address(text)) == Address(text).reveal() == text
    assert redacted(f"{text} and alice") == f"{text} and alice"


@pytest.mark.parametrize("text", CASES)
def test_no_secret_is_in_what_libraries_say(text: str) -> None:
    Address(text)
    known = SECRET if f":{SECRET}@" in text or f"={SECRET}" in text else "?"
    said = RuntimeError(f"no connection for user joe, password {known}, at {text}")
    for told in (
        sentence(said),
        _line(said),
        str(ResourceError(str(said))),
        str(SpecError([str(said)])),
    ):
        assert clear(told)
        assert clear(redacted(text))
    one = Address("http://joe:p%40ss%2Fword@host")
    assert redacted("p@ss/word p%40ss%2Fword") == "*** ***"
    assert str(one) == "http://***@host"


def test_a_wrong_address_is_told_without_its_secret(tmp_path: Path) -> None:
    for key in ("mlflow.uri", "optuna.storage", "store", "mlflow", "name", "grid.seed", "resourcs"):
        (tmp_path / "grid.yaml").write_text("name: a\ngrid: {attack: sgi, dataset: digits}\n")
        for long in ("", "x" * 50):
            value = f"htttp://joe{long}:{SECRET}@host/x"
            with pytest.raises(SpecError) as caught:
                load_study(str(tmp_path / "grid.yaml"), [f"{key}={value}", "seed=x"])
            assert clear(str(caught.value))
            assert clear("".join(caught.value.lines))


STUDY = """\
name: tiny
grid:
  attack: badnets
  dataset: digits
  architecture: {name: preact_resnet18, width: 1}
  clean_ratio: 0.05
  relearn_epochs: 1
  unlearn_epochs: 1
victim: {epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
"""


# Nobody listens at these addresses, so that their libraries complain of them.
RUN = [
    ("mlflow.uri", f"http://joe:{SECRET}@127.0.0.1:9/x"),
    ("mlflow.uri", "http://joe:hunter2/hunter2@127.0.0.1:9"),
    ("mlflow.uri", f"postgresql://127.0.0.1:9/d?user=joe&password={SECRET}"),
    ("optuna.storage", f"postgresql://127.0.0.1:9/d?user=joe&password={SECRET}"),
    ("store", f"s3://key:{SECRET}@bucket/x"),
    ("store", f"http://joe:{SECRET}@127.0.0.1:9/x"),
]


@pytest.mark.parametrize(("key", "place"), RUN)
def test_no_command_writes_a_secret(
    key: str,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The plan, a run whose budget ends it, and the report, where secrets stand in any form."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    Path("grid.yaml").write_text(STUDY)
    words = [
        "grid.yaml",
        *(word for pair in PLACES.items() for word in _set(*pair)),
        *_set(key, place),
    ]
    runs = key != "store"
    for kind, code in (("--plan", 0 if runs else None), ("--inline", 4 if runs else None)):
        monkeypatch.setattr("sys.argv", ["study", *words, kind])
        found = main([*words, kind])
        told = capfd.readouterr()
        assert clear(told.out + told.err)
        assert found == code if runs else found in (2, 3)
    files = [path for path in Path().rglob("*") if path.is_file() and path.name != "grid.yaml"]
    for path in files:
        assert clear(path.read_bytes().decode("utf-8", "replace")), path
    if not runs:
        assert {path.name for path in files} <= {"ray.log"}
        return
    assert "To go on:" in told.err
    assert "***" in told.err
    assert "***" in Path("runs/tiny/study.yaml").read_text()
    assert {"report.html", "starts.jsonl", "mlflow.sqlite"} <= {path.name for path in files}
    assert report(["runs/tiny"]) == 0
    told = capfd.readouterr()
    assert clear(told.out + told.err + Path("runs/tiny/report.html").read_text())


PLACES = {
    "mlflow.log_models": "none",
    "mlflow.uri": "http://127.0.0.1:9",
    "store": "store",
    "budget.trials": "1",
    "grid.seed": "[0, 1]",
}


def _set(key: str, value: str) -> tuple[str, str]:
    return "--set", f"{key}={value}"


def test_a_store_that_cannot_be_reached_is_told_without_its_secret() -> None:
    place = f"ftp://joe:{SECRET}@127.0.0.1:9/x"
    with pytest.raises(ResourceError) as caught:
        Store(place).check()
    assert clear(str(caught.value))
    assert str(caught.value).startswith("the store ftp://***@127.0.0.1:9/x cannot be")
    assert "\n" not in str(caught.value)


def test_an_item_that_fails_tells_no_secret() -> None:
    Address(f"http://joe:{SECRET}@host")

    class Broken:
        """A stage runner whose library tells all."""

        class Site:
            limits = type("Limits", (), {"seconds": lambda *_: None, "overdue": lambda *_: ""})()
            expendable = False

        site, executed = Site(), ()

        def work(self, item: object) -> Iterator[object]:
            del item
            raise ValueError(f"no {SECRET} for http://joe:{SECRET}@host")
            yield

    steps = steps_of(Broken(), type("Item", (), {"stage": "relearn"})())  # type: ignore[arg-type]
    with pytest.raises(StopIteration) as end:
        next(steps)
    result = end.value.value
    assert result.error == "ValueError: no *** for http://***@host"
    assert clear(result.message + result.trace)


# Which stores there are.

REFUSED = [
    *("memory://x", "data:abc", "data://x", "dir::x", "dir::file:///x", "http://host/x"),
    *("simplecache::s3://b/x", "s3://b::x", "a::b", "$HOME/x", "${HOME}/x", "a/$USER", "s3://$B/x"),
]


@pytest.mark.parametrize("place", REFUSED)
def test_a_place_that_keeps_nothing_is_refused_in_a_line(tmp_path: Path, place: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(f"{STUDY}store: '{place}'\n")
    with pytest.raises(SpecError) as caught:
        load_study(str(path))
    (line,) = caught.value.lines
    assert line.startswith(f"{path}:11: store: store is ")
    assert list(tmp_path.iterdir()) == [path]
