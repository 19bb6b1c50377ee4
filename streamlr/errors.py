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
"""

from __future__ import annotations


class StreamlrError(Exception):
    """Root of the tree. ``exit_status`` is what the command line ends with."""

    exit_status = 1


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


class WriteError(StreamlrError, OSError):
    pass


class ClusterError(StreamlrError, RuntimeError):
    pass
