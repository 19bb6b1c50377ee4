"""What is told of buckets: of Amazon's kind, served on the loopback interface."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stores import two_class_data, write_store
from web import Fault, Web, serving

import streamlr
from streamlr.errors import ChunkError, StoreNotFoundError, StoreUnreachableError

pytest.importorskip("s3fs")

KEYS = {"key": "k", "secret": "s", "client_kwargs": {"region_name": "us-east-1"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bucket")
    write_store(folder / "data" / "set" / "a.zarr", *two_class_data(2000, 4), (250, 4))
    return folder


@pytest.fixture
def web(root: Path) -> Iterator[Web]:
    with serving(root) as server:
        yield server


def train(endpoint: str, store: str = "s3://data/set/a.zarr", **data: Any) -> dict[str, Any]:
    options = {**KEYS, "endpoint_url": endpoint}
    told = {
        "data": {"store": store, "storage_options": options, **data},
        "cluster": {"kind": "serial"},
        "solver": {"name": "lbfgs"},
    }
    return streamlr.train(told).summary


def of_chunks(fault: Fault, times: int) -> Callable[[str], Fault]:
    left = [times]

    def of(path: str) -> Fault:
        left[0] -= "/X/c/3" in path
        return fault if "/X/c/3" in path and left[0] >= 0 else None

    return of


@pytest.mark.parametrize("fault", [429, 500, 503, "reset", "cut", "garbage"])
def test_what_passes_is_tried_again_and_costs_no_bit(root: Path, web: Web, fault: Fault) -> None:
    web.fault = of_chunks(fault, 2)
    here = streamlr.train(
        {"data": {"store": str(root / "data/set/a.zarr")}, "solver": {"name": "lbfgs"}}
    )
    assert train(web.url)["coefficients_sha256"] == here.summary["coefficients_sha256"]


@pytest.mark.parametrize("fault", [429, 503, "reset", "silent"])
def test_what_goes_on_failing_is_told_with_resume_and_not_as_damage(web: Web, fault: Fault) -> None:
    web.fault = of_chunks(fault, 10**9)
    with pytest.raises(
        ChunkError,
        match=r"chunk 3 of X .* cannot be read, in \d+ attempts? within \d+ s.*resume=True",
    ) as raised:
        train(web.url, retry_seconds=2.0)
    assert "decoded" not in str(raised.value)


def test_a_dead_endpoint_is_told_as_that(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlr.data.sources.store.NOBODY_SECONDS", 3.0)
    with serving(root) as web:
        url = web.url
    with pytest.raises(
        StoreUnreachableError,
        match=r"nobody answers at 's3://data/set/a.zarr', in \d+ attempts.*endpoint in "
        r"data.storage_options",
    ):
        train(url)


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_credentials_are_told_as_that(web: Web, status: int) -> None:
    web.fault = lambda path: status
    with pytest.raises(
        StoreUnreachableError,
        match=r"access to 's3://data/set/a.zarr' is refused .*check the credentials",
    ):
        train(web.url)


def test_credentials_that_end_in_mid_run_are_told_as_that(web: Web) -> None:
    web.fault = of_chunks(403, 10**9)
    with pytest.raises(
        ChunkError, match=r"chunk 3 of X .*access is refused .*renew the credentials.*resume=True"
    ):
        train(web.url)


@pytest.fixture(scope="module")
def bucket(root: Path) -> Iterator[str]:
    """A server that lists buckets too."""
    moto = pytest.importorskip("moto.server")
    import boto3  # comes with it

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="k",
        aws_secret_access_key="s",
    )
    client.create_bucket(Bucket="data")
    for file in root.rglob("*"):
        if file.is_file():
            client.put_object(
                Bucket="data", Key=str(file.relative_to(root / "data")), Body=file.read_bytes()
            )
    yield endpoint
    server.stop()


@pytest.mark.parametrize(
    ("store", "data", "message"),
    [
        ("s3://nodata/set/a.zarr", {}, "there is no bucket 'nodata'.*check its name in data.store"),
        (
            "s3://data/set/b.zarr",
            {},
            r"the bucket 'data' exists, and holds none at 'set/b.zarr' \(the nearest folder that "
            r"does exist is 'data/set', with a.zarr\)",
        ),
        (
            "s3://data/sat/a.zarr",
            {},
            r"the bucket 'data' exists, and holds none at 'sat/a.zarr' \(the nearest folder that "
            r"does exist is 'data', with set\)",
        ),
        ("s3://data/set/a.zarr/X", {}, "is a Zarr array; data.store must be the group"),
        (
            "s3://data/set/a.zarr",
            {"target": "z"},
            r"has no array 'z' \(data.target\); it holds X, y",
        ),
    ],
    ids=["bucket", "key", "folder", "array", "name"],
)
def test_each_thing_that_is_missing_has_its_own_message(
    bucket: str, store: str, data: dict[str, str], message: str
) -> None:
    with pytest.raises(StoreNotFoundError, match=message):
        train(bucket, store, **data)
