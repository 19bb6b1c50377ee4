#!/usr/bin/env python3
"""Chaos: train while workers and the client are killed at random moments, and see that no bit
changes and nothing hangs.

Every trial is a run of its own on a store made for the session. At a moment drawn from the seed, in
the time that an undisturbed run takes, one of these happens:

    client    SIGKILL, SIGTERM or SIGINT to the run; `train --resume` has to end it
    worker    SIGKILL to a worker process; the run has to end by itself           (processes, held)
    workers   SIGKILL to all of them at once                                      (processes, held)
    stopped   SIGSTOP to a worker process, which is then there and does nothing   (processes, held)

A moment that comes before there are workers waits for them. One that comes after the end, or that
the run did not notice since it was ending, is no kill: it is counted apart, and another trial is
made in its place.

The coefficients have to be those of the undisturbed run, to the bit; no process may be left behind;
and the time, of both runs where there are two, is held against undisturbed runs made just before
and after, since a machine is not as busy at one time as at another. The exit status is 0 where all
of that holds and no trial took more than --most times as long.

    scripts/chaos                      200 kills (about three quarters of an hour on an idle machine
    of two cores) scripts/chaos --kills 6 --rows 20000 --passes 15
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

COMMAND = [sys.executable, "-c", "from streamlr.cli.main import program; program()"]
CLIENT_SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
ON_WORKERS = ("worker", "worker", "workers", "stopped")
ENGINES = {
    "threads": "kind: threads, workers: 2",
    "processes": "kind: processes, workers: 2, stall_seconds: 4",
    # all slabs stay in the workers' memory
    "held": "kind: processes, workers: 2, stall_seconds: 4, memory_limit: 1GB",
}
GOING_SECONDS = 20.0
"""For processes that are on their way out when the run has ended."""


@dataclass(frozen=True)
class Session:
    """What all trials share."""

    folder: Path
    passes: int
    dice: random.Random
    neighbours: int = 2
    """Undisturbed runs before a trial, and after it, whose median its time is held against."""
    usual: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each undisturbed run so far, by engine."""

    @property
    def store(self) -> Path:
        return self.folder / "s.zarr"


@dataclass(frozen=True)
class Trial:
    """What became of one disturbed run."""

    engine: str
    kind: str
    moment: float
    """Seconds after the start."""
    seconds: float
    """Of it all, the resumed run included."""
    struck: bool
    """Whether anybody was there to be killed."""
    wrong: str
    """What was wrong; empty for nothing."""
    undisturbed: int
    """How many undisturbed runs of this engine had been made before."""

    def usual(self, session: Session) -> float:
        """The median of the undisturbed runs next to it."""
        near = session.usual[self.engine][
            max(0, self.undisturbed - session.neighbours) : self.undisturbed + session.neighbours
        ]
        return statistics.median(near)


def start(session: Session, engine: str, run: Path, *options: str) -> subprocess.Popen[bytes]:
    config = session.folder / f"{engine}.yaml"
    config.write_text(
        f"data: {{store: {session.store}}}\nsolver: {{name: gradient_descent, max_passes: "
        f"{session.passes}}}\n"
        f"cluster: {{{ENGINES[engine]}}}\n",
        encoding="utf-8",
    )
    command = [*COMMAND, "train", "--config", str(config), "--run-dir", str(run), *options]
    with open(run.with_suffix(".err"), "ab") as reported:
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=reported, start_new_session=True
        )


def end(process: subprocess.Popen[bytes], seconds: float) -> str:
    """Wait for the run, and for all that it started; says what was wrong with that."""
    try:
        process.wait(timeout=seconds)
    except BaseException as error:  # a session that is broken off leaves nothing running
        for other in (*group_of(process.pid), process):
            other.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return f"HUNG for {seconds:.0f} s"
    deadline = time.monotonic() + GOING_SECONDS
    while left := group_of(process.pid):
        if time.monotonic() > deadline:
            for other in left:
                other.kill()
            return f"left behind: {', '.join(' '.join(other.cmdline())[:80] for other in left)}"
        time.sleep(0.05)
    return ""


def group_of(leader: int) -> list[psutil.Process]:
    """Processes of a run that still live."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def fingerprint(run: Path) -> str:
    return str(
        json.loads((run / "summary.json").read_text(encoding="utf-8"))["coefficients_sha256"]
    )


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Worker processes that live."""
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        return [
            child
            for child in family
            if child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline())
        ]
    return []


def strike(process: subprocess.Popen[bytes], kind: str, dice: random.Random) -> bool:
    """Do what is to happen to a run; whether there was anybody to whom it happened."""
    if kind in CLIENT_SIGNALS:
        if process.poll() is None:
            process.send_signal(CLIENT_SIGNALS[kind])
            return True
        return False
    while process.poll() is None:
        workers = workers_of(process)
        if workers:
            struck = 0
            for victim in workers if kind == "workers" else [dice.choice(workers)]:
                with suppress(psutil.NoSuchProcess):
                    victim.send_signal(signal.SIGSTOP if kind == "stopped" else signal.SIGKILL)
                    struck += 1
            return struck > 0
        time.sleep(0.01)
    return False


def attempt(
    session: Session, engine: str, kind: str, moment: float, run: Path, hang: float
) -> Trial:
    """One run, disturbed at a moment."""
    struck = False
    began = time.monotonic()
    process = start(session, engine, run)
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        struck = strike(process, kind, session.dice)
    wrong = end(process, hang)
    seconds = time.monotonic() - began
    if kind in CLIENT_SIGNALS and not wrong:
        struck = struck and process.returncode != 0
        if struck:
            began = time.monotonic()
            process = start(session, engine, run, "--resume")
            wrong = end(process, hang)
            seconds += time.monotonic() - began
    if not wrong and process.returncode != 0:
        wrong = (
            f"exit status {process.returncode}: "
            f"{run.with_suffix('.err').read_text(errors='replace').strip()[-400:]}"
        )
    return Trial(engine, kind, moment, seconds, struck, wrong, len(session.usual[engine]))


def undisturbed(session: Session, engine: str, expected: str | None = None) -> str:
    """Measure a run that nothing happens to; returns its coefficients' fingerprint."""
    run = session.folder / f"{engine}-{len(session.usual.setdefault(engine, []))}"
    began = time.monotonic()
    process = start(session, engine, run)
    wrong = end(process, 3600.0)
    session.usual[engine].append(time.monotonic() - began)
    if wrong or process.returncode != 0:
        raise SystemExit(
            "an undisturbed run failed: "
            f"{wrong or run.with_suffix('.err').read_text(errors='replace')}"
        )
    found = fingerprint(run)
    if found != (expected or found):
        raise SystemExit(
            f"an undisturbed run on {engine} ended with other bits: {found[:12]} instead of "
            f"{expected[:12] if expected else ''}"
        )
    print(f"     {engine:9} undisturbed: {session.usual[engine][-1]:.1f} s", flush=True)
    return found


def decks(dice: random.Random) -> Iterator[tuple[str, str]]:
    """Engines and what happens on them, for ever: shuffled decks, so that each comes as often as it
    should."""
    while True:
        cards = [
            (engine, kind)
            for engine in ENGINES
            for kind in (*CLIENT_SIGNALS, *(() if engine == "threads" else ON_WORKERS))
        ]
        dice.shuffle(cards)
        yield from cards


def kill_all(session: Session, options: argparse.Namespace, expected: str) -> list[Trial]:
    """Make trials until there were enough kills, with undisturbed runs between them."""
    trials: list[Trial] = []
    cards = decks(session.dice)
    while (kills := sum(trial.struck for trial in trials)) < options.kills:
        if len(trials) > 3 * options.kills + 10:
            raise SystemExit(
                f"only {kills} of {len(trials)} moments were in time; use more --rows or --passes"
            )
        engine, kind = next(cards)
        usual = statistics.median(session.usual[engine][-session.neighbours :])
        run = session.folder / f"run-{len(trials)}"
        trial = attempt(
            session, engine, kind, session.dice.uniform(0.0, usual), run, options.hang * usual
        )
        if not trial.wrong and fingerprint(run) != expected:
            trial = Trial(
                engine,
                kind,
                trial.moment,
                trial.seconds,
                trial.struck,
                f"OTHER BITS: {fingerprint(run)[:12]}",
                trial.undisturbed,
            )
        trials.append(trial)
        print(
            f"{kills + trial.struck:4} {engine:9} {kind:8} at {trial.moment:5.2f} s  "
            f"{trial.seconds:6.1f} s  {trial.wrong or 'same bits'}"
            f"{'' if trial.struck else '  (too late: no kill)'}",
            flush=True,
        )
        if trial.wrong:
            print(
                f"     {run.with_suffix('.err').read_text(errors='replace').strip()[-2000:]}",
                flush=True,
            )
        if len(trials) % options.every == 0:
            for name in ENGINES:
                undisturbed(session, name, expected)
    return trials


def tell(session: Session, trials: list[Trial], most: float) -> bool:
    """Print the tally; whether all is well."""
    kills = [trial for trial in trials if trial.struck]
    wrong = [trial for trial in trials if trial.wrong]
    ratios = sorted(
        ((trial.seconds / trial.usual(session), trial) for trial in trials),
        key=lambda pair: pair[0],
    )
    slow = [pair for pair in ratios if pair[0] > most]
    times = {
        engine: f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}, "
        f"{len(seconds)} runs)"
        for engine, seconds in session.usual.items()
    }
    print(
        "\nundisturbed: " + ", ".join(f"{engine} {reported}" for engine, reported in times.items())
    )
    for kind in dict.fromkeys((*CLIENT_SIGNALS, *ON_WORKERS)):
        mine = [ratio for ratio, trial in ratios if trial.struck and trial.kind == kind]
        if mine:
            print(
                f"{kind:9}{len(mine):4} kills, time over that of undisturbed runs next to it: "
                f"median {statistics.median(mine):.2f}, worst {max(mine):.2f}"
            )
    for ratio, trial in slow:
        print(
            f"SLOW: {trial.engine} {trial.kind} at {trial.moment:.2f} s took {trial.seconds:.1f} "
            f"s, {ratio:.2f} times {trial.usual(session):.1f} s"
        )
    by_victim = Counter("client" if trial.kind in CLIENT_SIGNALS else trial.kind for trial in kills)
    victims = ", ".join(
        f"{named} {by_victim[kind]}"
        for kind, named in (
            ("client", "client"),
            ("worker", "worker"),
            ("workers", "all workers"),
            ("stopped", "stopped"),
        )
    )
    print(
        f"{len(kills)} kills ({victims}): {sum(not trial.wrong for trial in kills)} times the "
        f"same bits, {len(wrong)} failed or hung, {len(slow)} took more "
        f"than {most:g} times the undisturbed run (worst {ratios[-1][0] if ratios else 0:.2f}); "
        f"{len(trials) - len(kills)} came too late and were made again"
    )
    return not wrong and not slow


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=200_000, help="rows of 20 features")
    parser.add_argument(
        "--passes", type=int, default=60, help="passes of a run; a checkpoint follows each"
    )
    parser.add_argument("--every", type=int, default=9, help="trials between undisturbed runs")
    parser.add_argument(
        "--neighbours",
        type=int,
        default=2,
        help="undisturbed runs before a trial, and after it, whose median its time is held against",
    )
    parser.add_argument(
        "--most", type=float, default=3.0, help="times the undisturbed run that a trial may take"
    )
    parser.add_argument(
        "--hang",
        type=float,
        default=10.0,
        help="times the undisturbed run after which one is given up as hung",
    )
    options = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # started in the background, children would inherit that it is ignored
    with tempfile.TemporaryDirectory() as name:
        session = Session(
            Path(name), options.passes, random.Random(options.seed), options.neighbours
        )
        subprocess.run(
            [
                *COMMAND,
                "synth",
                str(session.store),
                "--rows",
                str(options.rows),
                "--features",
                "20",
            ],
            check=True,
            capture_output=True,
        )
        expected = None
        for _ in range(session.neighbours):
            for engine in ENGINES:
                expected = undisturbed(session, engine, expected)
        trials = kill_all(session, options, str(expected))
        for engine in ENGINES:
            undisturbed(session, engine, expected)
        well = tell(session, trials, options.most)
    raise SystemExit(0 if well else 1)


if __name__ == "__main__":
    main()
