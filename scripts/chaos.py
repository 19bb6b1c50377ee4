#!/usr/bin/env python3
"""Chaos: train while workers and the client are killed at random moments, and see that no bit changes and nothing hangs.

Every trial is a run of its own on a store made for the session. At a moment drawn from the seed, in the time that an
undisturbed run takes, one of these happens:

    worker    SIGKILL to a worker process; the run has to end by itself           (processes)
    workers   SIGKILL to all of them at once                                      (processes)
    client    SIGKILL, SIGTERM or SIGINT to the run; `train --resume` has to end it

The coefficients have to be those of the undisturbed run, to the bit. Printed are the time of each trial over that of the
undisturbed run, and the tally. A trial of more than 3 times is called slow, one of more than --hang times hung.

    scripts/chaos                      200 kills, half of them on worker processes   (about half an hour)
    scripts/chaos --kills 6 --rows 20000
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

SLOW = 3.0
COMMAND = [sys.executable, "-c", "from streamlr.cli.main import main; main()"]
CLIENT_SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}


@dataclass(frozen=True)
class Session:
    """What all trials share."""

    store: Path
    folder: Path
    passes: int
    hang: float
    """Seconds after which a run is given up."""


def start(session: Session, engine: str, run: Path, *options: str) -> subprocess.Popen[bytes]:
    config = session.folder / f"{engine}.yaml"
    config.write_text(f"data: {{store: {session.store}}}\nsolver: {{name: gradient_descent, max_passes: {session.passes}}}\n"
                      f"cluster: {{kind: {engine}, workers: 2}}\n", encoding="utf-8")
    command = [*COMMAND, "train", "--config", str(config), "--run-dir", str(run), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def end(process: subprocess.Popen[bytes], session: Session) -> str:
    """What the run printed; a run that hangs is killed, which shows in its status."""
    try:
        return process.communicate(timeout=session.hang)[1].decode()
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        return process.communicate()[1].decode() + "\nHUNG"


def fingerprint(run: Path) -> str:
    return str(json.loads((run / "summary.json").read_text(encoding="utf-8"))["coefficients_sha256"])


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        return [child for child in family if "spawn_main" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def disturb(process: subprocess.Popen[bytes], kind: str, dice: random.Random) -> None:
    """Do what is to happen to a run that may have ended already."""
    if kind in CLIENT_SIGNALS:
        if process.poll() is None:
            process.send_signal(CLIENT_SIGNALS[kind])
        return
    workers = workers_of(process)
    for victim in workers if kind == "workers" else dice.sample(workers, min(1, len(workers))):
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue


def trial(session: Session, engine: str, kind: str, moment: float, run: Path, dice: random.Random) -> tuple[float, str]:
    """Seconds that a disturbed run took in all, and what was wrong with it ("" for nothing)."""
    started = time.monotonic()
    process = start(session, engine, run)
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        disturb(process, kind, dice)
    printed = end(process, session)
    if process.returncode != 0 and kind in CLIENT_SIGNALS and "HUNG" not in printed:
        process = start(session, engine, run, "--resume")
        printed = end(process, session)
    seconds = time.monotonic() - started
    return seconds, "" if process.returncode == 0 else f"exit status {process.returncode}: {printed.strip()[-400:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=400_000, help="rows of 20 features")
    parser.add_argument("--passes", type=int, default=40, help="passes of a run; a checkpoint follows each")
    parser.add_argument("--engines", nargs="+", choices=["threads", "processes"], default=["threads", "processes"], help="by turns")
    parser.add_argument("--hang", type=float, default=10.0, help="times the undisturbed run after which one is given up as hung")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, children would inherit that it is ignored
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([*COMMAND, "synth", str(folder / "s.zarr"), "--rows", str(options.rows), "--features", "20"], check=True, capture_output=True)
        session = Session(folder / "s.zarr", folder, options.passes, 3600.0)
        expected, usual = {}, {}
        for engine in options.engines:
            seconds = []
            for number in range(2):
                took, wrong = trial(session, engine, "none", 3600.0, folder / f"{engine}-{number}", dice)
                if wrong:
                    raise SystemExit(wrong)
                seconds.append(took)
            usual[engine], expected[engine] = max(seconds), fingerprint(folder / f"{engine}-0")
            print(f"{engine}: {usual[engine]:.1f} s undisturbed, coefficients {expected[engine][:12]}", flush=True)
        if len(set(expected.values())) > 1:
            raise SystemExit(f"the engines disagree: {expected}")
        failed = kill_all(session, options, expected, usual, dice)
    raise SystemExit(1 if failed else 0)


def kill_all(session: Session, options: argparse.Namespace, expected: dict[str, str], usual: dict[str, float], dice: random.Random) -> int:
    """Make all trials and print them; returns how many did not end with the same bits, or hung."""
    tally: Counter[str] = Counter()
    worst = 0.0
    for number in range(options.kills):
        engine = options.engines[number % len(options.engines)]
        kind = dice.choice([*CLIENT_SIGNALS] if engine == "threads" else [*CLIENT_SIGNALS, "worker", "worker", "workers"])
        moment = dice.uniform(0.0, usual[engine])
        run = session.folder / f"run-{number}"
        seconds, wrong = trial(Session(session.store, session.folder, session.passes, options.hang * usual[engine]), engine, kind, moment, run, dice)
        ratio = seconds / usual[engine]
        worst = max(worst, ratio)
        if not wrong and fingerprint(run) != expected[engine]:
            wrong = f"OTHER BITS: {fingerprint(run)[:12]}"
        tally["failed" if wrong else "same bits"] += 1
        tally["slow"] += ratio > SLOW
        tally[f"{engine} {kind}"] += 1
        print(f"{number + 1:4} {engine:9} {kind:8} at {moment:5.2f} s  {ratio:5.2f} x  {wrong or 'same bits'}{'  SLOW' if ratio > SLOW else ''}", flush=True)
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(tally.items()) if " " in name and name != "same bits")
    print(f"\n{options.kills} kills: {tally['same bits']} times the same bits, {tally['failed']} failed, {tally['slow']} took more than {SLOW:.0f} times the "
          f"undisturbed run (worst {worst:.2f})\n{kinds}")
    return tally["failed"]


if __name__ == "__main__":
    main()
