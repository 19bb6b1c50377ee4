"""Reads that fail for a moment, as networks and their file systems do, and are tried again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from gzip import BadGzipFile
from typing import TypeVar

from streamlr.errors import StreamlrError

T = TypeVar("T")
log = logging.getLogger(__name__)

READ_ATTEMPTS = 4
_FIRST_WAIT_SECONDS = 0.1
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, BadGzipFile, StreamlrError)
"""Errors of the operating system's kind that another attempt would only meet again."""

_lock = threading.Lock()
_untold = 0


def retried(read: Callable[[], T], what: Callable[[], str]) -> T:
    """What ``read`` returns, at the latest in its fourth attempt, after waits of 0.1, 0.2 and 0.4 seconds.

    Tried again are errors of input and output, broken connections and time-outs; not those that are final (no such file, no
    permission) nor anything that a codec or a checksum found.

    Parameters
    ----------
    read
        The read; it may run several times.
    what
        How messages name what is read.
    """
    for attempt in range(1, READ_ATTEMPTS):
        try:
            return read()
        except OSError as error:  # time-outs and broken connections are among them
            if not is_transient(error):
                raise
            _count()
            log.info("%s could not be read (%s); trying again, attempt %d of %d", what(), str(error) or type(error).__name__, attempt + 1, READ_ATTEMPTS)
            time.sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
    return read()


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may meet with success."""
    return isinstance(error, OSError) and not isinstance(error, _FINAL)


def take_read_retries() -> int:
    """How many reads of this process were tried again since this was last asked."""
    global _untold
    with _lock:
        count, _untold = _untold, 0
    return count


def _count() -> None:
    global _untold
    with _lock:
        _untold += 1
