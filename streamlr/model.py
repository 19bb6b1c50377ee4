"""A fitted model: coefficients in the units of the data, kept as a Zarr group that executes nothing
when it is loaded.

Format 1 knows two classes alone; format 2 holds any family, with no classes where the target is a
number. Format 3 is that of models that were fitted with an offset, which older versions would leave
out without a word; all others are still written in format 2.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamlr.config.places import local_output, local_run
from streamlr.data.frames import in_order_of
from streamlr.data.records import read_array, read_attributes, write_record
from streamlr.data.source import Rows, log_of_exposure, refuse_bad_offset
from streamlr.data.sources.adapters import numbers_of, read_all_by_blocks, rows_of
from streamlr.data.sources.dask_rows import DaskArray, DaskFrame
from streamlr.data.sources.sparse_rows import SparseMatrix, StoredMatrix
from streamlr.errors import ConfigError, DataError, RunDirectoryError, ShapeError
from streamlr.kernels.families import FAMILIES
from streamlr.text import named

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

FORMAT_VERSION = 2
FORMAT_VERSION_OF_OFFSETS = 3
_READABLE = (1, 2, 3)
MODEL_NAME = "model.zarr"
_FORMAT = "streamlr model"


@dataclass(frozen=True, slots=True)
class Model:
    """A linear model: of the probability of the second class, of each class, or of the mean of a
    number."""

    coef_: Array
    """Coefficients, (c, n), in the units of the data."""
    intercept_: Array
    """Intercepts, (c,)."""
    classes_: NDArray[Any]
    """The sorted labels; none where the target is a number."""
    feature_names: tuple[str, ...] | None = None
    """Names of the features."""
    family: str = "logistic"
    """Name of the family."""
    fitted_with: Literal["offset", "exposure"] | None = None
    """What was added to Z in the fit, and has to be given to predict; None for nothing."""

    @property
    def coefficients_sha256(self) -> str:
        """Digest of the bits of coefficients and intercepts (little-endian float64)."""
        digest = hashlib.sha256()
        for array in (self.coef_, self.intercept_):
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()

    @property
    def content_sha256(self) -> str:
        """Digest of everything that the model is: coefficients, classes, names, family, offset."""
        rest: list[Any] = [
            self.classes_.tolist(),
            self.classes_.dtype.str,
            self.feature_names,
            self.family,
            self.coef_.shape,
        ]
        rest += [] if self.fitted_with is None else [self.fitted_with]
        return hashlib.sha256(f"{self.coefficients_sha256} {json.dumps(rest)}".encode()).hexdigest()

    def decision_function(
        self, X: ArrayLike, offset: ArrayLike | None = None, exposure: ArrayLike | None = None
    ) -> Array:
        """Z of every row of ``X``: (m,) of one output, (m, c) of more.

        Parameters
        ----------
        X
            Features, (m, n). The columns of a frame (of pandas, Polars, pyarrow or Dask) and of a
            labelled array (xarray) are found by their names where the model has names: they may
            be in any order and among others. An array without names goes by position.
        offset
            What is added to Z, (m,), or one number for all rows. A model that was fitted with an
            offset or an exposure asks for it; 0 says that there is none.
        exposure
            In the place of an offset, which is its logarithm; of a ``poisson`` model.

        Raises
        ------
        ShapeError
            For columns that are missing or too many, and offsets that do not go with the rows.
        ConfigError
            Where an offset is asked for and none was given.
        NonFiniteError
            For an offset that is not finite, or an exposure that is not above 0.
        """
        rows = self._rows_of(X)
        beside = self._offset_of(offset, exposure, rows.shape[0])
        Z: Array = (
            self._products(rows)
            if isinstance(rows, np.ndarray)
            else read_all_by_blocks(rows, self._products)
        )
        return Z + (beside if Z.ndim == 1 else np.reshape(beside, (-1, 1)))

    def _products(self, rows: NDArray[Any]) -> Array:
        """Z of some rows without an offset."""
        if len(self.coef_) == 1:
            one: Array = rows @ self.coef_[0] + self.intercept_[0]
            return one
        many: Array = rows @ self.coef_.T + self.intercept_
        return many

    def _rows_of(self, X: ArrayLike) -> Array | Rows:
        """The features in the order of the model, (m, n); what Dask or anndata hold is read by
        blocks."""
        chosen, extra = in_order_of(self.feature_names, X, "the model")
        if extra:
            log.warning(
                "X has %d columns that the model does not know (%s): they are left out",
                len(extra),
                named(extra),
            )
        lazy = isinstance(chosen, DaskArray | DaskFrame | SparseMatrix | StoredMatrix)
        rows: Any = rows_of(chosen) if lazy else numbers_of(chosen, "X")
        if len(rows.shape) != 2 or rows.shape[1] != self.coef_.shape[1]:
            raise ShapeError(
                f"X has shape {rows.shape}; the model was fitted to {self.coef_.shape[1]} "
                f"features: expected (rows, {self.coef_.shape[1]})"
            )
        return rows

    def _offset_of(self, offset: ArrayLike | None, exposure: ArrayLike | None, m: int) -> Array:
        """What is added to Z, (m,), or one number for all, ()."""
        if offset is None and exposure is None:
            if self.fitted_with is not None:
                log_of = (
                    " (or exposure=, whose logarithm that is)"
                    if FAMILIES[self.family].counted
                    else ""
                )
                raise ConfigError(
                    f"the model was fitted with an {self.fitted_with}, and none was "
                    f"given; give offset={log_of}, (rows,), or offset=0 for none"
                )
            return np.array(0.0)
        if offset is not None and exposure is not None:
            raise ConfigError(
                "offset and exposure exclude each other: an exposure is an offset, by "
                "its logarithm; leave out one of the two"
            )
        if exposure is not None and not FAMILIES[self.family].counted:
            raise ConfigError(
                "exposure: only a model of the family poisson has one, not "
                f"{self.family}; give offset="
            )
        name, given = ("offset", offset) if exposure is None else ("exposure", exposure)
        values = numbers_of(given, name)
        if values.shape not in ((), (m,)):
            raise ShapeError(
                f"{name} has shape {values.shape}, and X has {m} rows; expected "
                f"({m},), or one number for all"
            )
        check = refuse_bad_offset if exposure is None else log_of_exposure
        return check(np.atleast_1d(values), 0, name).reshape(values.shape)

    def predict_mean(
        self, X: ArrayLike, offset: ArrayLike | None = None, exposure: ArrayLike | None = None
    ) -> Array:
        """A of every row of ``X``: the mean of the target or the probability of the second class,
        (m,); of each class, (m, c).

        Of ``X``, ``offset`` and ``exposure`` see `decision_function`; so for all that predict.
        """
        return mean_of(self.family, np.atleast_2d(self.decision_function(X, offset, exposure).T))

    def predict_proba(
        self, X: ArrayLike, offset: ArrayLike | None = None, exposure: ArrayLike | None = None
    ) -> Array:
        """Probability of each class for every row of ``X``: (m, c).

        Raises
        ------
        ConfigError
            Where the target is a number.
        """
        self._refuse_numbers()
        A = self.predict_mean(X, offset, exposure)
        return A if A.ndim == 2 else np.column_stack([1.0 - A, A])

    def predict_log_proba(
        self, X: ArrayLike, offset: ArrayLike | None = None, exposure: ArrayLike | None = None
    ) -> Array:
        """Logarithm of the probability of each class for every row of ``X``, to full precision
        where that is near 0 or 1: (m, c).

        Raises
        ------
        ConfigError
            Where the target is a number.
        """
        self._refuse_numbers()
        Z = self.decision_function(X, offset, exposure)
        if Z.ndim == 1:
            return np.column_stack([-np.logaddexp(0.0, Z), -np.logaddexp(0.0, -Z)])
        Z = Z - Z.max(axis=1, keepdims=True)
        return Z - np.log(np.exp(Z).sum(axis=1, keepdims=True))

    def predict(
        self, X: ArrayLike, offset: ArrayLike | None = None, exposure: ArrayLike | None = None
    ) -> NDArray[Any]:
        """The most probable label for every row of ``X``, or the mean of the target where that is a
        number: (m,)."""
        if not FAMILIES[self.family].labelled:
            return self.predict_mean(X, offset, exposure)
        Z = self.decision_function(X, offset, exposure)
        labels: NDArray[Any] = self.classes_[
            Z.argmax(axis=1) if Z.ndim == 2 else (Z > 0).astype(np.intp)
        ]
        return labels

    def _refuse_numbers(self) -> None:
        if not FAMILIES[self.family].labelled:
            raise ConfigError(
                f"a model of the family {self.family} has no classes; ask for predict"
            )

    def at_columns(self, columns: NDArray[np.intp], names: tuple[str, ...]) -> Model:
        """The model of k features with these names: its own stand at ``columns``, (n,), and the
        others have coefficients of 0."""
        coef = np.zeros((len(self.coef_), len(names)))
        coef[:, columns] = self.coef_
        return replace(self, coef_=coef, feature_names=names)

    def save(self, path: str | Path) -> None:
        """Write the model as a Zarr group; it appears whole or not at all."""
        arrays: dict[str, NDArray[Any]] = {"coef": self.coef_, "intercept": self.intercept_}
        attributes: dict[str, Any] = {
            "format": _FORMAT,
            "format_version": FORMAT_VERSION,
            "family": self.family,
            "classes": self.classes_.tolist(),
            "classes_dtype": self.classes_.dtype.str,
            "feature_names": None if self.feature_names is None else list(self.feature_names),
            "coefficients_sha256": self.coefficients_sha256,
            "content_sha256": self.content_sha256,
        }
        if self.fitted_with is not None:
            attributes |= {
                "format_version": FORMAT_VERSION_OF_OFFSETS,
                "fitted_with": self.fitted_with,
            }
        write_record(local_output(path, "the path of the model"), arrays, attributes)


def mean_of(family: str, Z: Array) -> Array:
    """A of the examples, (c, k), as predictions have it: (k,) of one output, (k, c) of more."""
    A = FAMILIES[family].activate(Z)
    return A[0] if len(A) == 1 else np.ascontiguousarray(A.T)


def load_model(path: str | Path) -> Model:
    """Load a model from a run directory or from the model's own group. Nothing in it is executed.

    Raises
    ------
    RunDirectoryError
        When there is no model.
    DataError
        When it is damaged, or of a format that this version does not know.
    """
    folder = local_run(path)
    try:
        if (folder / MODEL_NAME).is_dir():
            folder = folder / MODEL_NAME
        found = folder.is_dir()
    except OSError as error:
        raise RunDirectoryError(
            f"no model at {str(path)!r:.80}: {error.strerror}; give the directory of a run, or "
            "the path of a model"
        ) from error
    if not found:
        raise RunDirectoryError(
            f"no model at {str(path)!r}: neither a run directory with a {MODEL_NAME} nor a model "
            "itself; has the run finished?"
        )
    attributes = read_attributes(folder)
    if attributes is None or attributes.get("format") != _FORMAT:
        raise RunDirectoryError(
            f"no model at {str(path)!r}: it is no run with a {MODEL_NAME}; has the run finished, "
            "and is it the run that you mean?"
        )
    if attributes.get("format_version") not in _READABLE:
        raise DataError(
            f"the model at {str(path)!r} has format version {attributes.get('format_version')}; "
            "this streamlr reads "
            f"{' and '.join(map(str, _READABLE))}"
        )
    try:
        names = attributes["feature_names"]
        model = Model(
            read_array(folder, "coef"),
            read_array(folder, "intercept"),
            np.array(attributes["classes"], dtype=np.dtype(attributes["classes_dtype"])),
            None if names is None else tuple(names),
            attributes["family"],
            attributes.get("fitted_with"),
        )
        saved = attributes["content_sha256"]
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise DataError(
            f"the model at {str(path)!r} is damaged ({type(error).__name__}: {error}); restore it "
            "or train again"
        ) from error
    if model.content_sha256 != saved:
        raise DataError(
            f"the model at {str(path)!r} is not the one that was saved (sha256 "
            f"{model.content_sha256[:12]}..., saved as {str(saved)[:12]}...); "
            "restore it or train again"
        )
    return model
