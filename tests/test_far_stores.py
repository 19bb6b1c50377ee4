"""Stores elsewhere: what passes is tried again, what does not is told for what it is, and nothing
waits for ever.

All servers are real, on the loopback interface.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr
from stores import two_class_data, write_store
from web import Fault, Web, serving

import streamlr
from streamlr.errors import ChunkError, ConfigError, StoreNotFoundError, StoreUnreachableError
from streamlr.events import Event, PassFinished

pytest.importorskip("aiohttp")

ROWS, FEATURES = 2000, 4
KINDS = ["serial", "threads"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    write_store(folder / "a.zarr", *two_class_data(ROWS, FEATURES), (250, FEATURES))
    zarr.consolidate_metadata(str(folder / "a.zarr"))
    write_store(folder / "plain.zarr", *two_class_data(ROWS, FEATURES), (250, FEATURES))
    return folder


@pytest.fixture
def web(root: Path) -> Iterator[Web]:
    with serving(root) as server:
        yield server


def settings(store: str, kind: str = "serial", **data: Any) -> dict[str, Any]:
    return {
        "data": {"store": store, **data},
        "cluster": {"kind": kind, "workers": 2},
        "solver": {"name": "lbfgs"},
    }


def here(root: Path) -> str:
    found: str = streamlr.train(settings(str(root / "a.zarr"))).summary["coefficients_sha256"]
    return found


def first_times(fault: Fault, times: int) -> Callable[[str], Fault]:
    """A fault of the first requests for each chunk of the features."""
    seen: Counter[str] = Counter()

    def of(path: str) -> Fault:
        if "/X/c/" not in path:
            return None
        seen[path] += 1
        return fault if seen[path] <= times else None

    return of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [429, 500, 503, "cut", "reset", "garbage"])
def test_what_passes_is_tried_again_and_counted_and_costs_no_bit(
    root: Path, web: Web, fault: Fault, kind: str
) -> None:
    web.fault = first_times(fault, 2)
    found = streamlr.train(settings(f"{web.url}/a.zarr", kind))
    assert found.summary["read_retries"] >= 1  # after a reset aiohttp asks once more by itself
    assert found.summary["coefficients_sha256"] == here(root)


@pytest.mark.parametrize("fault", [429, 503])
def test_metadata_that_cannot_be_had_for_a_moment_are_asked_for_again(
    root: Path, web: Web, fault: Fault
) -> None:
    left = [3]

    def of(path: str) -> Fault:
        left[0] -= path.endswith("zarr.json")
        return fault if left[0] >= 0 and path.endswith("zarr.json") else None

    web.fault = of
    assert streamlr.train(settings(f"{web.url}/a.zarr")).summary["coefficients_sha256"] == here(
        root
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "why"),
    [(503, "503|Service Unavailable"), ("cut", "."), ("silent", "no answer within 1 s")],
)
def test_what_goes_on_failing_is_told_with_resume(
    web: Web, fault: Fault, why: str, kind: str
) -> None:
    web.fault = first_times(fault, 10**9)
    with pytest.raises(
        ChunkError,
        match=rf"chunk \d of X .*cannot be read, in \d+ attempts? within \d+ s: "
        rf".*({why}).*resume=True.*data.retry_seconds, 1",
    ):
        streamlr.train(settings(f"{web.url}/a.zarr", kind, retry_seconds=1.0))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (404, "chunk 0 of X .*is missing"),
        (403, "chunk 0 of X .*access is refused"),
        (401, "chunk 0 of X .*access is refused"),
        (501, "chunk 0 of X .*cannot be read: 501, .*see to the .*network, then add resume=True"),
        (416, "chunk 0 of X .*cannot be read: 416, .*see to the .*network, then add resume=True"),
        ("garbage", "chunk 0 of X .*cannot be decoded"),
    ],
)
def test_what_does_not_pass_is_told_at_once(web: Web, fault: Fault, message: str) -> None:
    web.fault = lambda path: fault if path.endswith("a.zarr/X/c/0/0") else None
    with pytest.raises(ChunkError, match=message):
        streamlr.train(settings(f"{web.url}/a.zarr"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_goes_away_in_mid_run_is_told_with_resume_which_gives_the_same_bits(
    root: Path, tmp_path: Path, kind: str
) -> None:
    with serving(root) as web:
        store, port = f"{web.url}/a.zarr", web.server_address[1]

        def stop(event: Event) -> None:
            if isinstance(event, PassFinished) and event.number == 2:
                web.stop()

        run = {"directory": str(tmp_path / "run")}
        with pytest.raises(
            ChunkError,
            match=r"chunk \d of X .*cannot be read, in \d+ attempts within .*resume=True",
        ):
            streamlr.train(
                {**settings(store, kind, retry_seconds=1.0), "run": run}, subscribers=[stop]
            )
    with serving(root, port):
        resumed = streamlr.train({**settings(store, kind), "run": run}, resume=True)
    assert resumed.summary["coefficients_sha256"] == here(root)


def test_a_dead_endpoint_is_told_as_that(root: Path) -> None:
    with serving(root) as web:
        url = web.url
    with pytest.raises(StoreUnreachableError, match=r"nobody answers at .*check host and port"):
        streamlr.train(settings(f"{url}/a.zarr", retry_seconds=0.5))


def test_a_host_that_is_not_known_is_told_as_that() -> None:
    with pytest.raises(
        StoreUnreachableError, match=r"its host is not known.*check the host's name"
    ):
        streamlr.train(settings("http://nowhere.invalid/a.zarr", retry_seconds=0.5))


def test_a_server_that_never_answers_when_the_store_is_opened_is_told_as_that(web: Web) -> None:
    web.fault = lambda path: "silent"
    with pytest.raises(StoreUnreachableError, match=r"cannot be opened, .*no answer within 1 s"):
        streamlr.train(settings(f"{web.url}/a.zarr", retry_seconds=1.0))


def test_no_retries_means_one_attempt(web: Web) -> None:
    web.fault = first_times(503, 10**9)
    with pytest.raises(ChunkError, match="in 1 attempt within"):
        streamlr.train(settings(f"{web.url}/a.zarr", retry_seconds=0))
    assert all(count == 1 for path, count in Counter(web.asked).items() if "/X/c/" in path)


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_retry_seconds_out_of_range_are_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match=r"data.retry_seconds: .* is out of range"):
        streamlr.train(settings("a.zarr", retry_seconds=seconds))


# what is not there --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        (
            "b.zarr",
            {},
            "no Zarr group at .*the server answers, and has neither zarr.json nor .zgroup there; "
            "check the path",
        ),
        ("a.zarr/X", {}, "is a Zarr array; data.store must be the group"),
        ("a.zarr", {"target": "z"}, r"has no array 'z' \(data.target\); it holds X, y"),
        (
            "plain.zarr",
            {"target": "z"},
            r"has no array 'z' \(data.target\); what it holds cannot be listed, "
            r".*consolidate_metadata",
        ),
    ],
    ids=["store", "array", "name", "name without a listing"],
)
def test_what_is_missing_is_named(web: Web, path: str, data: dict[str, str], message: str) -> None:
    with pytest.raises(StoreNotFoundError, match=message):
        streamlr.train(settings(f"{web.url}/{path}", **data))


def test_a_store_that_cannot_be_listed_is_read_without_consolidated_metadata_too(
    root: Path, web: Web
) -> None:
    assert streamlr.train(settings(f"{web.url}/plain.zarr")).summary["coefficients_sha256"] == here(
        root
    )


@pytest.mark.parametrize("status", [401, 403])
def test_access_that_is_refused_is_told_as_that(web: Web, status: int) -> None:
    web.fault = lambda path: status
    with pytest.raises(
        StoreUnreachableError, match=f"access to .* is refused .*{status}.*check the credentials"
    ):
        streamlr.train(settings(f"{web.url}/a.zarr"))


# news and signals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_waited_for_is_said_again_and_again(
    web: Web, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamlr.data.chunks.reads.SPEAK_SECONDS", 0.6)
    web.fault = first_times("silent", 10**9)
    with pytest.raises(ChunkError):
        streamlr.train(
            {
                **settings(f"{web.url}/a.zarr", kind, retry_seconds=4.0),
                "model": {"standardize": True},
            }
        )
    said = [
        record.getMessage()
        for record in caplog.records
        if record.getMessage().startswith("waiting")
    ]
    assert len(said) >= 2
    assert any("of X has been read for" in text for text in said)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_waits_for_a_server(
    web: Web, tmp_path: Path, kind: str, number: int
) -> None:
    asked = threading.Event()

    def of(path: str) -> Fault:
        if "/X/c/" not in path:
            return None
        asked.set()
        return "silent"

    web.fault = of
    config = tmp_path / "c.yaml"
    config.write_text(
        f"data: {{store: '{web.url}/a.zarr'}}\ncluster: {{kind: {kind}, workers: 2}}\n",
        encoding="utf-8",
    )
    command = [
        sys.executable,
        "-m",
        "streamlr.cli.main",
        "train",
        "--config",
        str(config),
        "--run-dir",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    asked.wait()
    process.send_signal(number)
    _, told = process.communicate()
    assert process.returncode == 130
    assert "stopped before the first pass was finished" in told
    assert "Traceback" not in told
    assert "Task was destroyed" not in told


def test_workers_that_wait_for_a_server_are_not_replaced_and_tell_what_they_read(
    web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(streamlr.__file__).parents[1]))
    config = settings(f"{web.url}/a.zarr", "processes", retry_seconds=20.0)
    config["cluster"] |= {"stall_seconds": 8.0}
    web.fault = first_times(503, 10**9)
    with pytest.raises(
        ChunkError, match=r"chunk \d of X .*cannot be read, in \d+ attempts within .*resume=True"
    ):
        streamlr.train(config)
    said = [record.getMessage() for record in caplog.records]
    assert any("of X has been read for" in text and "503" in text for text in said)
    assert not any("replacing" in text for text in said)
