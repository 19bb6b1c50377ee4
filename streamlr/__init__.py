"""Exact linear models on data that does not fit in memory.

Names are imported when they are first asked for, so that ``import streamlr`` loads neither Zarr nor
Dask, and scikit-learn is needed by the estimators alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamlr import errors as errors
from streamlr import events as events
from streamlr.version import __version__ as __version__

if TYPE_CHECKING:
    from streamlr.config.sections import TrainConfig, load_config
    from streamlr.estimator import (
        LinearRegression,
        LogisticRegression,
        LogisticRegressionCV,
        PoissonRegressor,
    )
    from streamlr.inference.summary import summary
    from streamlr.inference.table import Summary
    from streamlr.model import Model, load_model
    from streamlr.scoring.scoring import evaluate, predict
    from streamlr.training.path import PathResult, path
    from streamlr.training.train import TrainResult, train

__all__ = [
    "LinearRegression",
    "LogisticRegression",
    "LogisticRegressionCV",
    "Model",
    "PathResult",
    "PoissonRegressor",
    "Summary",
    "TrainConfig",
    "TrainResult",
    "evaluate",
    "load_config",
    "load_model",
    "path",
    "predict",
    "summary",
    "train",
]

_HOMES = {
    "streamlr.config.sections": ("TrainConfig", "load_config"),
    "streamlr.estimator": (
        "LinearRegression",
        "LogisticRegression",
        "LogisticRegressionCV",
        "PoissonRegressor",
    ),
    "streamlr.inference.summary": ("summary",),
    "streamlr.inference.table": ("Summary",),
    "streamlr.model": ("Model", "load_model"),
    "streamlr.training.path": ("PathResult", "path"),
    "streamlr.scoring.scoring": ("evaluate", "predict"),
    "streamlr.training.train": ("TrainResult", "train"),
}
"""Where the names of ``__all__`` are defined."""


def __getattr__(name: str) -> Any:
    """Import what is asked for the first time, and keep it."""
    for home, names in _HOMES.items():
        if name in names:
            found = getattr(import_module(home), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'streamlr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
