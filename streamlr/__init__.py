"""Exact linear models on data that does not fit in memory."""

from typing import TYPE_CHECKING, Any

from streamlr.config import TrainConfig, load_config
from streamlr.inference import summary
from streamlr.inference_table import Summary
from streamlr.model import Model, load_model
from streamlr.path_run import PathResult, path
from streamlr.scoring import evaluate, predict
from streamlr.training import TrainResult, train
from streamlr.version import __version__ as __version__

if TYPE_CHECKING:
    from streamlr.estimator import LinearRegression, LogisticRegression, LogisticRegressionCV, PoissonRegressor

__all__ = ["LinearRegression", "LogisticRegression", "LogisticRegressionCV", "Model", "PathResult", "PoissonRegressor", "Summary", "TrainConfig",
           "TrainResult", "evaluate", "load_config", "load_model", "path", "predict", "summary", "train"]


def __getattr__(name: str) -> Any:
    """Import the estimators when they are first asked for: they alone need scikit-learn, which takes longer to import than all the rest."""
    if name not in ("LinearRegression", "LogisticRegression", "LogisticRegressionCV", "PoissonRegressor"):
        raise AttributeError(f"module 'streamlr' has no attribute {name!r}")
    from streamlr import estimator

    return getattr(estimator, name)
