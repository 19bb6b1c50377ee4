"""What is sent to workers, as bytes that nobody unpickles but the task itself, once it has begun.

Dask unpickles a task and what it is given in the stream of messages of a worker, and on the
scheduler too. An error there breaks the stream: the worker closes, with all that others run on it.
So everything of ours that a graph holds is packed: a worker (or a scheduler) that lacks streamlr,
or has another one, meets bytes and functions of Python and of Dask alone, and what goes wrong is
the error of one task. What is unpacked was packed by this run, never read from a file.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from distributed.protocol.pickle import dumps, loads
from numpy.typing import NDArray

Parcel: TypeAlias = tuple[bytes, list[bytes] | list[NDArray[np.uint8]]]
"""A packed value: what it is, and the bytes of its arrays, which are not copied when it is
unpacked."""

unwrap = loads
"""Makes the call that `written_call` wrote down. Every worker has it, whatever else it has."""


def pack(value: object) -> Parcel:
    """A value as plain bytes, for whoever may get it."""
    arrays: list[Any] = []
    what = dumps(value, buffer_callback=arrays.append)
    return what, [bytes(array.raw()) for array in arrays]


def pack_uncopied(value: object) -> Parcel:
    """The same without a copy of its arrays, for workers that are known to have NumPy."""
    arrays: list[Any] = []
    what = dumps(value, buffer_callback=arrays.append)
    return what, [np.frombuffer(array.raw(), dtype=np.uint8) for array in arrays]


def unpack(parcel: Parcel) -> Any:
    """The value again; its arrays are those of the parcel, and may be read-only.

    Raises
    ------
    Exception
        Whatever its parts raise here, such as a module that is missing.
    """
    what, arrays = parcel
    return loads(what, buffers=arrays)


def remote(function: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
    """A call of a function of ours as a task: the function is looked up where the task runs, the
    arguments may be keys."""
    return (operator.call, (loads, dumps(function)), *arguments)


class _Call:
    """Pickled, it is a call; unpickled, its result."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._function, self._arguments


def written_call(function: Callable[..., Any], *arguments: Any) -> bytes:
    """A call as bytes: who unwraps them makes it, and has its result."""
    return bytes(dumps(_Call(function, arguments)))
