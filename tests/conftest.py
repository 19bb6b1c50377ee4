"""What every test stands on."""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell without job control has what it starts in the background ignore it, children included
