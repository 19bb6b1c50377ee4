"""What this process holds of the machine's memory, and how the allocator is told to give back what
is freed."""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import sys

_OWN_PAGES_BYTES = 4 * 2**20
_KEPT_BYTES = 8 * 2**20
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


@functools.cache
def configure_allocator() -> None:
    """Have blocks of 4 MiB and more mapped one by one, and so given back when they are freed; once
    for the life of a process.

    The GNU C library, left alone, learns from the first large block that is freed to keep all up to
    32 MiB in its arenas: a fit of 2000 features then ended with 490 MB that nothing held. Other
    libraries are left as they are.
    """
    library = _c_library()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_BYTES)
        library.mallopt(
            _M_TRIM_THRESHOLD, _KEPT_BYTES
        )  # smaller ones are kept: a kernel's vectors come and go with every leaf


def trim_allocator() -> None:
    """Return the pages of freed blocks to the operating system, where the C library can."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)


@functools.cache
def _c_library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
    except OSError:
        return None


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped, as by SIGSTOP; not known, and so False, where there is no
    ``/proc``."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as status:
            return status.read().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def process_peak_bytes() -> int:
    """Largest resident memory of this process so far.

    Read from ``VmHWM``, which starts anew with a program; ``ru_maxrss`` would inherit the peak of
    the parent.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
    return 0


def process_bytes() -> int:
    """Resident memory of this process now; where that is not told, the largest so far."""
    try:
        with open("/proc/self/statm", encoding="ascii") as status:
            return int(status.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return process_peak_bytes()
