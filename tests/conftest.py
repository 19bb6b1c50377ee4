"""What every test stands on."""

from __future__ import annotations

import os
import signal

# a shell without job control has what it starts in the background ignore it, children included
signal.signal(signal.SIGINT, signal.default_int_handler)

_PROCESS, _EXIT = os.getpid(), os._exit


def _refuse_to_end(status: int) -> None:
    """Ends of forked children are their own; that of this process would pass for a suite without a
    failure."""
    if os.getpid() == _PROCESS:
        os.write(2, b"os._exit was called in the process of the tests\n")
        _EXIT(70)
    _EXIT(status)


os._exit = _refuse_to_end  # type: ignore[assignment]
