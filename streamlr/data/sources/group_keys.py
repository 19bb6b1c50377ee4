"""Labels of groups as keys of 64 bits, so that neither memory nor messages between workers depend
on how groups are named."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.data.conventions.texts import is_gap
from streamlr.errors import DtypeError, NonFiniteError


def group_keys(labels: NDArray[Any], first_row: int, name: str) -> NDArray[np.uint64]:
    """Key of the group of each row, (k,): equal where labels are.

    Whole numbers are their own, also where they are stored as floats, and other numbers keep their
    bits; of text it is a digest, of which a million groups have two alike with a probability of
    3e-8.

    Raises
    ------
    NonFiniteError
        For a label that is NaN or infinite.
    DtypeError
        For labels that are neither numbers nor text.
    """
    kind = labels.dtype.kind
    if kind == "f":
        values = labels.astype(np.float64) + 0.0  # -0.0 is 0.0
        good = np.isfinite(values)
        if not good.all():
            at = int(np.argmin(good))
            raise NonFiniteError(
                f"{name} holds {np.count_nonzero(~good)} labels that are not finite in the rows "
                f"from {first_row} on (first: {values[at]} at "
                f"row {first_row + at}); give every row one"
            )
        whole = (np.abs(values) < 2.0**63) & (values == np.rint(values))
        return np.where(
            whole,
            np.where(whole, values, 0.0).astype(np.int64).view(np.uint64),
            values.view(np.uint64),
        )
    if kind in "biu":
        return labels.astype(np.int64 if kind == "i" else np.uint64).view(np.uint64)
    if kind not in "UTSO":
        raise DtypeError(
            f"{name} has dtype {labels.dtype}; labels of groups must be integers, bools, floats "
            "or strings"
        )
    if kind == "O":
        gaps = [row for row, label in enumerate(labels.tolist()) if is_gap(label)]
        if gaps:
            raise NonFiniteError(
                f"{name} holds {len(gaps)} missing labels in the rows from {first_row} on (first: "
                f"{labels[gaps[0]]} at row {first_row + gaps[0]}); give every row one"
            )
        labels = labels.astype(str)
    distinct, codes = np.unique(labels, return_inverse=True)
    digests = b"".join(
        hashlib.blake2b(str(label).encode("utf-8", "backslashreplace"), digest_size=8).digest()
        for label in distinct.tolist()
    )
    return np.frombuffer(digests, dtype=np.uint64)[codes]
