"""One writer at a time: a lock on a file that is free again when its holder ends, however it ends.

The operating system's own lock serves where the file system has one. Some have none (network file
systems without a lock service, many in user space); there a second file, which is created only
where there is none yet, stands for it. It tells whose it is: so one whose process has died on this
machine is taken away, and of one from another machine a person can judge.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn, Self

from streamlr.errors import ConfigError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_ATTEMPTS = 100

Refusal = Callable[[str], Exception]
"""Makes the error that tells of the holder, which is named."""


def lock_output(path: Path, what: str) -> FileLock:
    """Keep others from writing at a path until it is let go; folders above it are made.

    Parameters
    ----------
    path
        Where something is to be written.
    what
        How messages name it.

    Raises
    ------
    ConfigError
        When another process is at it; names the process.
    OSError
        When nothing can be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(
        path.with_name(f".{path.name}.lock"),
        lambda holder: ConfigError(
            f"{what} {str(path)!r} is being written by another run ({holder}); wait for it, stop "
            "it, or choose "
            "another name"
        ),
        passing=True,
    )


class FileLock:
    """A lock that is held from its making to `release`.

    Parameters
    ----------
    path
        A file of its own, which is made where there is none.
    refusal
        Makes the error where another holds it.
    passing
        Whether the file goes with the lock.

    Raises
    ------
    OSError
        When there can be no such file.
    """

    def __init__(self, path: Path, refusal: Refusal, *, passing: bool = False) -> None:
        self._path = path
        self._passing = passing
        self._named: _NamedLock | None = None
        self._file = self._take(refusal)
        with contextlib.suppress(
            OSError
        ):  # it serves a message alone; whether the disk is full will show
            self._file.truncate(0)
            os.pwrite(self._file.fileno(), str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let the next one in; a second time it does nothing."""
        if self._file.closed:
            return
        if self._named is not None:
            self._named.release()
        if self._passing:  # while it is held still: who has opened it meanwhile looks again
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _take(self, refusal: Refusal) -> IO[bytes]:
        """An open file that is locked and still stands at the path."""
        while True:
            # it stays open as long as the lock is held; never through a link, which could lead to
            # somebody's file
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            file = open(os.open(self._path, flags, 0o644), "r+b", buffering=0)  # noqa: SIM115
            try:
                self._lock(file, refusal)
                if self._stands(file):
                    return file
            except BaseException:
                file.close()
                raise
            if self._named is not None:
                self._named.release()
            file.close()

    def _lock(self, file: IO[bytes], refusal: Refusal) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(file.fileno(), 100, 0).decode(errors="replace").strip()
            raise refusal(f"process {owner or 'unknown'}") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._named = _NamedLock(self._path.with_name(f"{self._path.name}.held"), refusal)

    def _stands(self, file: IO[bytes]) -> bool:
        try:
            return os.path.samestat(
                os.fstat(file.fileno()), os.stat(self._path, follow_symlinks=False)
            )
        except FileNotFoundError:
            return False


class _NamedLock:
    """A file that is there while the lock is held, and tells by whom."""

    def __init__(self, path: Path, refusal: Refusal) -> None:
        self._path = path
        self._owner = _owner_of(os.getpid())
        for _ in range(_ATTEMPTS):
            if self._create():
                return
            held = _content_of(path)
            if held is not None and not _has_ended(held):
                self._refuse(held, refusal)
            if held is not None:
                self._take_away(held, refusal)
        self._refuse("", refusal)

    def release(self) -> None:
        if _content_of(self._path) == self._owner:
            self._path.unlink(missing_ok=True)

    def _create(self) -> bool:
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(file, self._owner.encode())
        finally:
            os.close(file)
        return True

    def _take_away(self, held: str, refusal: Refusal) -> None:
        """Make room where a dead process held the lock; not for two at a time."""
        aside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            os.rename(self._path, aside)
        except FileNotFoundError:
            return  # another has done so
        now = _content_of(aside)
        if now == held:
            aside.unlink(missing_ok=True)
            return
        os.rename(aside, self._path)  # another was quicker, and holds it
        self._refuse(now or "", refusal)

    def _refuse(self, held: str, refusal: Refusal) -> NoReturn:
        pid, host = (*held.split(), "unknown", "unknown")[:2]
        raise refusal(
            f"process {pid} on {host}, by {str(self._path)!r}, since this file system has "
            "no locks; if that process is gone, remove the file"
        )


def _content_of(path: Path) -> str | None:
    """What a lock's file says; None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _owner_of(pid: int) -> str:
    """Process, machine, whose processes are meant by numbers, and when this one began."""
    return f"{pid} {socket.gethostname()} {_namespace()} {_begun(pid)}"


def _has_ended(owner: str) -> bool:
    """Whether the process that a lock's file names has ended; False where that cannot be told."""
    parts = owner.split()
    if len(parts) != 4 or not parts[0].isdecimal():
        return False
    pid, host, namespace, begun = int(parts[0]), *parts[1:]
    if (host, namespace) != (socket.gethostname(), _namespace()):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return _begun(pid) != begun  # another process has got its number


def _namespace() -> str:
    """What tells the processes of one container from those of another with the same name."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "-"


def _begun(pid: int) -> str:
    """When a process began, in ticks since the machine did, where the system tells."""
    try:
        state, *reported = (
            Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        )
    except (OSError, ValueError):
        return "-"
    if state in ("Z", "X"):
        return "ended"  # and not yet taken notice of by its parent
    return reported[18]
