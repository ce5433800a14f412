"""The store in object storage: a server that speaks S3, on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from orchestrator.store.__main__ import main
from orchestrator.store.store import Entry, Store
from tests.system_tests.commands import TINY, Command, computed, same

KEY = "ab" + "0" * 62
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "something",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def access() -> Iterator[dict[str, str]]:
    """Return the environment in which a bucket called `bucket` can be used."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    access = {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}"}
    before = dict(os.environ)
    os.environ.update(access)
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield access
    server.stop()
    os.environ.clear()
    os.environ.update(before)


def test_a_study_on_object_storage_inline_and_with_ray(
    tmp_path: Path, access: dict[str, str]
) -> None:
    with Command(tmp_path, **access) as command:
        command.write(TINY)
        for name, how in (("inline", "--inline"), ("ray", "--set=resources.workers=1")):
            place = ("--set", f"store=s3://bucket/{name}", "--set", f"name={name}")
            _, err = command.run("grid.yaml", how, *place)
            assert err == ""
        same(command.results("ray"), command.results("inline"))
        assert set(command.results("ray").status) == {"done"}
        assert computed(command.stages("ray")) == computed(command.stages("inline"))
        place = ("--set", "store=s3://bucket/ray", "--set", "name=again")
        command.run("grid.yaml", "--inline", *place)
        assert not command.stages("again").computed.any()


def test_stores_are_merged_measured_and_cleaned(
    tmp_path: Path, access: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    del access
    local, remote = str(tmp_path / "store"), "s3://bucket/merged"
    Store(local).write("unlearn", f"{KEY}-0.1", Entry(values={"a": 1}))
    assert main(["merge", remote, local]) == 0
    Store(remote).write("relearn", KEY, Entry(values={"b": 1}))
    assert main(["merge", local, remote]) == 0
    assert main(["usage", remote]) == 0
    assert [len(Store(url).holdings()) for url in (local, remote)] == [2, 2]
    assert "less than 1 day" in capsys.readouterr().out
    assert main(["clean", remote, "--older-than", "1h", "--yes"]) == 0
    assert capsys.readouterr().out == "nothing to delete among 2 entries\n"
    assert main(["clean", local, "--older-than", "0h", "--yes"]) == 0
    assert "deleted 2 entries, " in capsys.readouterr().out
    assert [len(Store(url).holdings()) for url in (local, remote)] == [0, 2]


def test_what_others_write_meanwhile_is_seen(access: dict[str, str]) -> None:
    del access
    store, others = Store("s3://bucket/seen"), boto3.client("s3")
    store.write("unlearn", f"{KEY}-0.1", Entry(values={"a": 1}))
    assert store.names("unlearn", KEY) == [f"{KEY}-0.1"]
    assert store.read("unlearn", f"{KEY}-0.2") is None
    path = f"unlearn/ab/{KEY}-0.2.safetensors"
    Store("s3://bucket/elsewhere").write("unlearn", f"{KEY}-0.2", Entry(values={"a": 1}))
    source = {"Bucket": "bucket", "Key": f"elsewhere/{path}"}
    others.copy_object(Bucket="bucket", Key=f"seen/{path}", CopySource=source)
    assert store.names("unlearn", KEY) == [f"{KEY}-0.1", f"{KEY}-0.2"]
    for found in (store.read, store.peek):
        entry = found("unlearn", f"{KEY}-0.2")
        assert entry is not None
        assert entry.values == {"a": 1}
    others.delete_object(Bucket="bucket", Key=f"seen/{path}")
    assert store.names("unlearn", KEY) == [f"{KEY}-0.1"]
    assert store.read("unlearn", f"{KEY}-0.2") is None
