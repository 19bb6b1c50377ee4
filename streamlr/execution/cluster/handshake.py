"""Whether a worker may take part: what it tells of its streamlr, and of the arithmetic that it
computes with."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from streamlr import version
from streamlr.execution.arithmetic import Arithmetic, arithmetic

_DIGITS = 12


class OtherStreamlrError(Exception):
    """A task has come to a worker of another streamlr, which does not take it."""


@functools.cache
def sources_digest() -> str:
    """A digest of the package's source files, by which two checkouts of one version are told apart;
    empty without any."""
    root = Path(
        version.__file__
    ).parent  # which lies in the root of the package, wherever this does
    found = hashlib.sha256()
    files = sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*.py"))
    for name, path in files:
        found.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:_DIGITS] if files else ""


def this_streamlr() -> str:
    """Version and sources of the streamlr of this process, for people and for comparison."""
    return f"{version.__version__} (sources {sources_digest() or 'unknown'})"


def tell() -> dict[str, str]:
    """What a worker tells of itself: plain text, which the other side understands whatever its
    version."""
    mine = arithmetic()
    return {
        "streamlr": this_streamlr(),
        "numpy": mine.numpy,
        "blas": mine.blas,
        "arithmetic": mine.digest,
    }


def why_not(reported: Mapping[str, str] | Exception) -> str | None:
    """Why a worker that told this, or met this error instead, may not take part; None where it
    may."""
    if isinstance(reported, Exception):
        return f"{type(reported).__name__}: {reported}"
    theirs = reported.get("streamlr", "of another kind")
    if theirs != this_streamlr():
        return f"it has streamlr {theirs}, this process {this_streamlr()}"
    return None


def arithmetic_of(reported: Mapping[str, str]) -> Arithmetic:
    """The arithmetic that a worker told of."""
    return Arithmetic(reported["arithmetic"], reported["numpy"], reported["blas"])


def require_this_streamlr(expected: str, worker: str) -> None:
    """Refuse work that another streamlr has sent: its sums would not be those of this one.

    Raises
    ------
    OtherStreamlrError
        Names the worker and both.
    """
    if expected != this_streamlr():
        raise OtherStreamlrError(
            f"the worker at {worker} has streamlr {this_streamlr()}, the run {expected}"
        )
