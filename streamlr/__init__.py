"""Exact linear models on data that does not fit in memory."""

from streamlr.config import TrainConfig, load_config
from streamlr.estimator import LogisticRegression
from streamlr.model import Model, load_model
from streamlr.scoring import evaluate, predict
from streamlr.training import TrainResult, train

__version__ = "0.1.0"
__all__ = ["LogisticRegression", "Model", "TrainConfig", "TrainResult", "evaluate", "load_config", "load_model", "predict", "train"]
