"""Clusters for tests that are there already: schedulers and workers as people start them, each in
its own way."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import streamlr
from streamlr.kernels.scans.gradient import GradientScan
from streamlr.testing import Read

FEATURES = 6
PACKAGE = Path(streamlr.__file__).parent
TESTS_AND_PACKAGE = os.pathsep.join([str(Path(__file__).parent), str(PACKAGE.parent)])
WITHOUT_STREAMLR = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "streamlr":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Finder())
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@dataclass
class Processes:
    """A scheduler's address, and what starts further workers."""

    address: str
    folder: Path
    """Where workers run that are not told otherwise; no store is there."""
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self,
        kind: str,
        *options: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        with_streamlr: bool = True,
    ) -> subprocess.Popen[bytes]:
        """``dask worker`` or ``dask scheduler``."""
        if not with_streamlr:
            blocker = self.folder / "without_streamlr.py"
            blocker.write_text(WITHOUT_STREAMLR)
            options = (*options, "--preload", str(blocker))
        where = ["--host", self.address] if kind == "scheduler" else [self.address]
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", kind, *where, "--no-dashboard", *options],
            cwd=cwd or self.folder,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / f"{kind}-{len(self.running)}.log").open("wb"),
            env={**os.environ, "PYTHONPATH": TESTS_AND_PACKAGE, **(environment or {})},
        )
        self.running.append(process)
        return process

    def worker(
        self,
        *options: str,
        threads: int = 1,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        with_streamlr: bool = True,
    ) -> subprocess.Popen[bytes]:
        """A worker under a nanny."""
        return self.start(
            "worker",
            "--nthreads",
            str(threads),
            *options,
            cwd=cwd,
            environment=environment,
            with_streamlr=with_streamlr,
        )


@contextmanager
def scheduler(
    folder: Path, *options: str, cwd: Path | None = None, with_streamlr: bool = True
) -> Iterator[Processes]:
    """A scheduler without workers yet; the folder is for what all processes write, and runs those
    that are not told otherwise."""
    folder.mkdir(exist_ok=True)
    processes = Processes(f"tcp://127.0.0.1:{free_port()}", folder)
    processes.start("scheduler", *options, cwd=cwd, with_streamlr=with_streamlr)
    try:
        yield processes
    finally:
        for process in reversed(processes.running):
            process.kill()
            process.wait()


def scan() -> GradientScan:
    return GradientScan(
        "logistic", np.array([0, 1]), np.full((1, FEATURES, 1), 0.1), np.zeros((1, 1))
    )


@dataclass(frozen=True)
class Pause:
    """Before each read of features some time goes by; for `streamlr.testing.SlowSource`."""

    seconds: float

    def __call__(self, read: Read) -> None:
        if read.kind == "features":
            time.sleep(self.seconds)


@dataclass(frozen=True)
class StuckOnce:
    """The first read of features in any process never returns; for `SlowSource`."""

    mark: str
    """A file that does not exist before."""

    def __call__(self, read: Read) -> None:
        if read.kind != "features":
            return
        try:
            os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        while True:
            time.sleep(1)


def long_task(mark: str, seconds: float) -> str:
    """What a stranger runs: notes in a file that it was begun, takes its time, and notes its
    end."""
    with open(mark, "a", encoding="utf-8") as file:
        file.write("begun\n")
    time.sleep(seconds)
    with open(mark, "a", encoding="utf-8") as file:
        file.write("ended\n")
    return "ended"


def other_streamlr(folder: Path, replace: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """A copy of the package with some text of its files replaced, as the environment of a worker
    that has it."""
    shutil.copytree(PACKAGE, folder / "streamlr", ignore=shutil.ignore_patterns("__pycache__"))
    for name, (old, new) in replace.items():
        file = folder / "streamlr" / name
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parent)])}
