"""What a path has come to, strength by strength, and what its folds say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.events import finite
from streamlr.objective.objective import Objective
from streamlr.solvers import SolveProgress, Status, termination_of
from streamlr.training.lambda_grid import CrossValidation, mean_and_error, nonzero

Array = NDArray[np.float64]
Scores = dict[str, tuple[Array, Array]]
"""Values and weights of every score of the rows held out, (L, K) each."""


@dataclass(frozen=True, slots=True)
class FoldVerdicts:
    """What the folds say of the strengths."""

    scores: Scores
    """None where there are no folds."""
    left_out: NDArray[np.bool_]
    """The folds that have no say, (K,)."""
    unsolved: NDArray[np.bool_]
    """The folds whose models need have no optimum, (K,)."""
    least_loss: Array
    """What no model can change of the loss of the rows that each holds out, (K,)."""

    @property
    def cross_validation(self) -> CrossValidation | None:
        """By the loss; None where there are no folds."""
        if not self.scores:
            return None
        losses, weights = self.scores["loss"]
        return CrossValidation.of(losses, self._counting(weights), self.least_loss)

    def means(self) -> Scores:
        """Of every score its mean over the folds that judge, and its standard error, (L,) each."""
        found = {
            name: mean_and_error(values, self._counting(weights))
            for name, (values, weights) in self.scores.items()
        }
        judged = self.cross_validation
        if judged is not None:
            found["loss"] = judged.mean, judged.standard_error
        return found

    def solved(self, standings: Sequence[SolveProgress]) -> list[SolveProgress]:
        """Of the models of some strengths those that have an optimum."""
        counts = [True, *(~self.unsolved).tolist()]
        return [standing for i, standing in enumerate(standings) if counts[i % len(counts)]]

    def _counting(self, weights: Array) -> Array:
        return np.where(self.left_out, 0.0, weights)


def path_table(
    lambdas: Array,
    grid: Sequence[Sequence[Objective]],
    standings: Sequence[SolveProgress],
    coefficients: Array,
    folds: FoldVerdicts,
    max_passes: int,
) -> list[dict[str, Any]]:
    """A record for each strength, as in ``path.json``.

    Parameters
    ----------
    lambdas
        The strengths, (L,).
    grid, standings
        Of every strength, the model of all rows, then those of the folds.
    coefficients
        Of the models of all rows, (L, c, n).
    folds
        What they say.
    max_passes
        Most passes that there were to be.
    """
    counted, means = nonzero(coefficients), folds.means()
    every = len(standings) // len(lambdas)
    rows = []
    for i, strength in enumerate(lambdas.tolist()):
        here, penalty = standings[i * every : (i + 1) * every], grid[i][0].model.penalty
        state = here[0].reached
        row = {
            "lambda": strength,
            "l2": penalty.l2,
            "l1": penalty.l1,
            "objective": state.value,
            "loss": state.loss,
            "gradient_max": max(s.reached.gradient_max for s in here),
            "status": worst(folds.solved(here), max_passes)[0],
            "passes": max(s.passes for s in here),
            "nonzero": counted[i],
        }
        rows.append({key: finite(value) for key, value in (row | _validation(means, i)).items()})
    return rows


def _validation(means: Mapping[str, tuple[Array, Array]], i: int) -> dict[str, float]:
    """The scores of the rows held out at one strength."""
    found = {}
    for name, (mean, error) in means.items():
        found[f"validation_{name}"] = float(mean[i])
        if not name.endswith("bound"):
            found[f"validation_{name}_se"] = float(error[i])
    return found


def penalties(grid: Sequence[Sequence[Objective]]) -> dict[str, Array]:
    """Those of all models, as ``path.zarr`` has them: (L,) of all rows, (L, K) of the folds."""
    found: dict[str, Array] = {}
    for name in ("l1", "l2"):
        every = np.array(
            [[getattr(objective.model.penalty, name) for objective in row] for row in grid]
        )
        found[name] = every[:, 0]
        if every.shape[1] > 1:
            found[f"fold_{name}"] = every[:, 1:]
    return found


def worst(standings: Sequence[SolveProgress], max_passes: int) -> tuple[str, str]:
    """How all have ended: converged, or as the first that has not."""
    ends = [termination_of(standing.reached, max_passes) for standing in standings]
    bad = [end for end in ends if end.status != Status.CONVERGED]
    if not bad:
        return str(
            Status.CONVERGED
        ), f"the gradients of all {len(ends)} models are within the tolerance"
    reported = f"{len(bad)} of {len(ends)} models did not converge; the first: {bad[0].reason}"
    return str(bad[0].status), reported
