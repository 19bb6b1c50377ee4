"""What a matrix of weights by true and predicted class tells: agreement, and a report for each
class.

With tp the diagonal, t the weight of each true class, p that of each predicted one and n of all:

    precision = tp / p,  recall = tp / t,  F1 = 2 tp / (t + p)
    0 where there is nothing to divide by kappa = (Σ tp / n - e) / (1 - e) with e = Σ t p / n²
    (Cohen 1960) Matthews = (n Σ tp - Σ t p) / sqrt((n² - Σ t²) (n² - Σ p²))
    (Gorodkin 2004)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def agreement(confusion: Array) -> dict[str, float | None]:
    """Accuracy, its mean over the classes that there are, Cohen's kappa (None where only one class
    is there), and Matthews' correlation."""
    shares = confusion / confusion.sum()
    right, true, predicted = np.diag(shares), shares.sum(axis=1), shares.sum(axis=0)
    there = true > 0
    chance = float(true @ predicted)
    varied = np.count_nonzero(true) > 1 and np.count_nonzero(predicted) > 1
    off_true, off_predicted = (float(side @ (side.sum() - side)) for side in (true, predicted))
    one_class = np.count_nonzero(true + predicted) < 2
    return {
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "balanced_accuracy": float((right[there] / true[there]).mean()),
        "cohen_kappa": None if one_class else float((right.sum() - chance) / (1.0 - chance)),
        "matthews_correlation": float((right.sum() - chance) / np.sqrt(off_true * off_predicted))
        if varied
        else 0.0,
    }


def class_report(confusion: Array, labels: list[Any]) -> dict[str, Any]:
    """Precision, recall, F1 and support of each class, with their plain mean and that by
    support."""
    right, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    columns = {
        "precision": _quotient(right, predicted),
        "recall": _quotient(right, true),
        "f1_score": _quotient(2 * right, true + predicted),
    }
    total = float(true.sum())
    return {
        "per_class": [
            {
                "class": label,
                **{name: float(values[i]) for name, values in columns.items()},
                "support": float(true[i]),
            }
            for i, label in enumerate(labels)
        ],
        "macro_average": {
            **{name: float(values.mean()) for name, values in columns.items()},
            "support": total,
        },
        "weighted_average": {
            **{name: float(values @ true / total) for name, values in columns.items()},
            "support": total,
        },
    }


def _quotient(a: Array, b: Array) -> Array:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
