"""How much memory this process may take, as the machine and its administrator have it.

The least of the physical memory, the limits of the control groups that the process is in (version 1
and 2, those above it too) and those of the shell (``ulimit``). Dask's own ``distributed.system``
knows the group at the root alone.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from streamlr.data.chunks.failures import lacks_memory
from streamlr.errors import MemoryLimitError
from streamlr.execution.process import process_bytes

_NO_LIMIT = 2**60
"""What control groups of version 1 say where there is none is about 2^63."""
_STATUS = Path("/proc/self/status")
_GROUPS = Path("/proc/self/cgroup")
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class FoundLimit:
    """A limit that nobody has told to streamlr."""

    nbytes: int
    """Bytes that may be resident."""
    source: str
    """Where it comes from, for a message."""


def found_limit() -> FoundLimit | None:
    """The least limit of this process; None where nothing tells of any."""
    found = [*_physical(), *_of_groups(), *_of_shell()]
    return min(found, key=lambda limit: limit.nbytes, default=None)


def _physical() -> Iterator[FoundLimit]:
    try:
        yield FoundLimit(
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "the memory of this machine"
        )
    except (OSError, ValueError):
        return  # a system that does not tell


def _of_shell() -> Iterator[FoundLimit]:
    """Address space and data are counted by what is mapped, not by what is resident: what is left
    of them may still become so."""
    mapped = _mapped_bytes()
    for kind, field, flag in (
        (resource.RLIMIT_AS, "VmSize", "-v"),
        (resource.RLIMIT_DATA, "VmData", "-d"),
    ):
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY and field in mapped:
            yield FoundLimit(
                max(0, most - mapped[field]) + process_bytes(),
                f"ulimit {flag} ({most / 1e6:.0f} MB)",
            )


def _mapped_bytes() -> dict[str, int]:
    found: dict[str, int] = {}
    for line in _lines(_STATUS):
        name, _, value = line.partition(":")
        if name in ("VmSize", "VmData"):
            found[name] = int(value.split()[0]) * 1024
    return found


def _of_groups() -> Iterator[FoundLimit]:
    mounts = dict(_mounts())
    for line in _lines(_GROUPS):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        version, name = (2, "memory.max") if not controllers else (1, "memory.limit_in_bytes")
        if version in mounts and (version == 2 or "memory" in controllers.split(",")):
            yield from _along(*mounts[version], group, name)


def _along(mount: Path, root: str, group: str, name: str) -> Iterator[FoundLimit]:
    """The limits of a group and of all above it, as far as they can be seen from here."""
    try:
        below = PurePosixPath(group).relative_to(root)
    except ValueError:
        below = PurePosixPath("..")
    if (
        ".." in below.parts
    ):  # the group lies outside of what is mounted: in a container, whose own group is at the root
        below = PurePosixPath()
    folder = mount / below
    for place in (folder, *folder.parents):
        try:
            text = (place / name).read_text(encoding="ascii").strip()
        except OSError:
            text = "max"
        if text.isdecimal() and int(text) < _NO_LIMIT:
            yield FoundLimit(int(text), f"{name} of the control group {str(place)!r}")
        if place == mount:
            return


def _mounts() -> Iterator[tuple[int, tuple[Path, str]]]:
    """Version, place and root of the hierarchies of groups that limit memory."""
    for line in _lines(_MOUNTS):
        fields, _, tail = line.partition(" - ")
        kind, *rest = tail.split()
        root, place = fields.split()[3:5]
        if kind == "cgroup2":
            yield 2, (Path(place), root)
        elif kind == "cgroup" and "memory" in rest[-1].split(","):
            yield 1, (Path(place), root)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


@contextmanager
def memory_reported() -> Iterator[None]:
    """What the system says when there is no more memory, as one error that says how much there was;
    also a decorator.

    Raises
    ------
    MemoryLimitError
        In the place of a MemoryError, of ENOMEM, and of a thread that cannot be started for want of
        memory for its stack.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        limit = found_limit()
        known = "" if limit is None else f"; {limit.source} is {limit.nbytes / 1e6:.0f} MB"
        raise MemoryLimitError(
            f"there is no more memory ({str(error) or type(error).__name__}): this process holds "
            f"{process_bytes() / 1e6:.0f} MB{known}. "
            "Set cluster.memory_limit to what it may use, so that the run is planned for it, use "
            "fewer threads (cluster.workers), "
            "or write the store in smaller chunks"
        ) from error
