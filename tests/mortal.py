"""Processes that die on purpose: a server that has streamlr loaded and forks a child for each run,
so that a real process can be killed in no time.

Every line on standard input is a job, every line on standard output what became of it. Run by
`Mortal`, never imported by streamlr.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

MARKS = ("replace", "fsync", "unlink", "rmdir")
"""Calls of `os` by which files become durable, get their names and go."""


@dataclass(frozen=True)
class End:
    """How a child ended."""

    status: int
    """Its exit status; minus the signal that killed it."""
    err: str
    """Its standard error."""
    out: str
    """Its standard output."""
    counts: dict[str, int]
    """Moments that it lived through, by kind."""


class Mortal:
    """The server as seen from a test; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Mortal:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(
        self,
        *arguments: str | Path,
        at: tuple[str, int] | None = None,
        blow: int | str = signal.SIGKILL,
    ) -> End:
        """Run ``streamlr`` with these arguments.

        Parameters
        ----------
        arguments
            Of the command line.
        at
            The moment of the blow: ``("replace", 3)`` is just before the third `os.replace`,
            ``("pass 2", 5)`` when the fifth chunk is read in pass 2, ``("PassFinished", 4)`` when
            pass 4 has been told.
        blow
            A signal that the process then gets, ``"full"`` for no room in any file from then on, or
            a command that it runs.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(
            json.dumps(
                {"arguments": [str(argument) for argument in arguments], "at": at, "blow": blow}
            )
            + "\n"
        )
        self._process.stdin.flush()
        return End(**json.loads(self._process.stdout.readline()))


def _strike(blow: int | str) -> None:
    if blow == "full":  # Python ignores the signal that comes with it
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    elif isinstance(blow, str):
        subprocess.run(blow, shell=True, check=True)
    else:
        os.kill(os.getpid(), blow)


def _watched(
    counts: dict[str, int], at: tuple[str, int] | None, blow: int | str
) -> Callable[[str], None]:
    def live(moment: str) -> None:
        counts[moment] = counts.get(moment, 0) + 1
        if at is not None and (moment, counts[moment]) == tuple(at):
            _strike(blow)

    return live


def _hook(live: Callable[[str], None]) -> None:
    """Have every durable call and every event told."""
    from streamlr.data.chunks.files import ChunkFiles
    from streamlr.events import Event, PassFinished, ScanStarted
    from streamlr.training import opening as training

    def told(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **named: Any) -> Any:
            live(name)
            return call(*arguments, **named)

        return instead

    for name in MARKS:
        setattr(os, name, told(name, getattr(os, name)))
    title = ""
    read = ChunkFiles.read

    def read_chunk(*arguments: Any) -> None:
        live(title)
        read(*arguments)

    ChunkFiles.read = read_chunk  # type: ignore[method-assign]

    def see(event: Event) -> None:
        nonlocal title
        if isinstance(event, ScanStarted):
            title = event.title
        live(type(event).__name__)
        if isinstance(event, PassFinished):
            live(f"after pass {event.number}")

    publisher = training.publisher
    training.publisher = lambda subscribers: publisher((*subscribers, see))


def _child(job: dict[str, Any], counts: dict[str, int], folder: Path) -> None:
    from streamlr.cli import main

    live = _watched(counts, job["at"], job["blow"])
    _hook(live)
    sys.argv = ["streamlr", *job["arguments"]]
    try:
        main.main()
    finally:
        live("the end")
        (folder / "counts").write_text(json.dumps(counts)) if job["at"] is None else None


def _serve(folder: Path) -> None:
    import streamlr.cli.main
    import streamlr.training.path  # noqa: F401 - loaded once, for all children

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        (folder / "counts").write_text("{}")
        pipes = {
            name: os.pipe() for name in ("out", "err")
        }  # not files, for which there may be no room
        child = os.fork()
        if child == 0:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(pipes[name][1], number)
            status: Any = 1
            try:
                _child(job, {}, folder)
            except SystemExit as ended:
                status = ended.code or 0
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        _, ended = os.waitpid(child, 0)
        texts = {name: _drained(*ends) for name, ends in pipes.items()}
        answers.write(
            json.dumps(
                {
                    "status": os.waitstatus_to_exitcode(ended),
                    "counts": json.loads((folder / "counts").read_text()),
                    **texts,
                }
            )
            + "\n"
        )
        answers.flush()


def _drained(reader: int, writer: int) -> str:
    os.close(writer)
    with os.fdopen(reader) as file:
        return file.read()


def moments(counts: dict[str, int], kinds: Sequence[str]) -> list[tuple[str, int]]:
    """Every moment of these kinds that a run has lived through."""
    return [(kind, number) for kind in kinds for number in range(1, counts.get(kind, 0) + 1)]


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
