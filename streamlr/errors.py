"""Every error that streamlr raises on purpose.

    StreamlrError |-- ConfigError (ValueError)            a key, a value or a command line that
    cannot be meant       exit status 2 |   `-- RunDirectoryError               a run directory that
    holds a run, or lacks one              exit status 2 |-- DataError
    what the store holds cannot be trained on                   exit status 3 |   |--
    StoreNotFoundError (FileNotFoundError)    no store, or no such array in it |   |   `--
    StoreUnreachableError       a store that may be there, and cannot be opened |   |-- ShapeError
    (ValueError)         arrays whose shapes disagree, or an empty one |   |-- DtypeError
    (TypeError)          a data type outside the store contract |   |-- ChunkError (OSError)
    a chunk that is missing, cut short or damaged |   |-- NonFiniteError (ValueError)     NaN or
    infinity among features or weights |   |   `-- MissingValueError           values that stand for
    missing ones, by what their writer says |   |-- LabelError (ValueError)         labels that are
    not the classes of a model |   `-- IngestError (ValueError)        a source table that cannot
    become a store |-- MemoryLimitError (MemoryError)      a plan that needs more memory than its
    limit                exit status 2 |-- WriteError (OSError)                a file of a run or a
    store that cannot be written           exit status 1 `-- ClusterError (RuntimeError)
    workers or a scheduler that cannot do the work              exit status 1

Each message says what, where, both numbers and the remedy. All take one message, so that they
survive the journey from a worker process to the client.

A remedy that the command line spells otherwise than Python is given to a message in both wordings,
by `option` or `either`. ``str(error)`` has that of Python, `for_command_line` the other. Whoever
makes a message of another error's takes `both` of it, since text that is put together from
``str(error)`` knows one of them alone.
"""

from __future__ import annotations

import re

_OPEN, _OR, _CLOSE = "\ufdd0\ufdd1\ufdd2"  # which Unicode keeps for use inside of a program
_TWO_WORDINGS = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_OR}([^{_OPEN}{_CLOSE}]*){_CLOSE}")


def either(command_line: str, python: str) -> str:
    """A part of a message that reads one way on the command line and another way in Python."""
    return f"{_OPEN}{command_line}{_OR}{python}{_CLOSE}"


def option(name: str, value: str | None = None) -> str:
    """An option of the command line, which is an argument in Python: a flag, or one that has a
    value."""
    if value is None:
        return either(f"--{name}", f"{name}=True")
    return either(f"--{name} {value}", f"{name}={value!r}")


def override(setting: str) -> str:
    """A setting of the form ``section.key=value`` that is to be given."""
    return either(f"--set {setting}", f"overrides=[{setting!r}]")


class Message(str):
    """A text in the wording of Python, which knows that of the command line too.

    Parameters
    ----------
    both
        The text, with what `either` makes in it.
    """

    both: str

    def __new__(cls, both: str) -> Message:
        message = super().__new__(cls, _TWO_WORDINGS.sub(r"\2", both))
        message.both = both
        return message


def both(reported: object) -> str:
    """The text of a message, or of an error, with both wordings: for use inside of another."""
    if isinstance(reported, StreamlrError) and reported.args:
        reported = reported.args[0]
    return reported.both if isinstance(reported, Message) else str(reported)


def for_command_line(reported: object) -> str:
    """The text of a message, or of an error, as the command line shows it."""
    return _TWO_WORDINGS.sub(r"\1", both(reported))


class StreamlrError(Exception):
    """Root of the tree. ``exit_status`` is what the command line ends with."""

    exit_status = 1

    def __init__(self, *message: str) -> None:
        super().__init__(*(Message(both(part)) for part in message))


class ConfigError(StreamlrError, ValueError):
    exit_status = 2


class RunDirectoryError(ConfigError):
    pass


class DataError(StreamlrError):
    exit_status = 3


class StoreNotFoundError(DataError, FileNotFoundError):
    pass


class StoreUnreachableError(StoreNotFoundError):
    pass


class ShapeError(DataError, ValueError):
    pass


class DtypeError(DataError, TypeError):
    pass


class ChunkError(DataError, OSError):
    pass


class NonFiniteError(DataError, ValueError):
    pass


class MissingValueError(NonFiniteError):
    pass


class LabelError(DataError, ValueError):
    pass


class IngestError(DataError, ValueError):
    pass


class MemoryLimitError(StreamlrError, MemoryError):
    exit_status = 2

    def __new__(cls, *args: object) -> MemoryLimitError:
        # `__new__` of MemoryError, which would be found, is not that of the layout: who makes one
        # from its parts, as tblib does for Dask, would fail
        return Exception.__new__(cls, *args)


class WriteError(StreamlrError, OSError):
    pass


class ClusterError(StreamlrError, RuntimeError):
    pass
