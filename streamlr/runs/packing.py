"""Checkpoints of a path: where every model stands, and what is known of the curvature, committed
after a pass.

Fields of the models' states are stacked, so that a file has a few arrays and not thousands;
Hessians, which models share, are there once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.objective.objective import Coordinates
from streamlr.pilot.curvature import Curvature, CurvatureModel, Curvatures
from streamlr.pilot.kronecker import Kronecker
from streamlr.runs.checkpoint import Checkpoint, flatten, unflatten
from streamlr.solvers import SOLVERS, SolveProgress, State

Array = NDArray[np.float64]
Packed = tuple[dict[str, NDArray[Any]], dict[str, Any]]
"""Arrays, and values as JSON holds them."""

_OWN, _NONE = -1, -2
"""Of a field of a state, in the place of the number of a Hessian that models share: it has its own
array, or none."""
_PREFIX = "standings.state."


def pack_progress(
    progress: list[SolveProgress], solver: str, known: list[CurvatureModel]
) -> Packed:
    """Where all models stand.

    Parameters
    ----------
    progress
        Of each model.
    solver
        Name of that which solves them.
    known
        Hessians that they share.
    """
    begun = [here.state for here in progress if here.state is not None]
    arrays: dict[str, NDArray[Any]] = {
        "standings.points": np.stack([here.point for here in progress])
    }
    values: dict[str, Any] = {
        "standings.passes": [here.passes for here in progress],
        "standings.held_loss": [here.validation_loss for here in progress],
        "standings.held_weight": [here.validation_weight for here in progress],
        "standings.begun": [here.state is not None for here in progress],
        "standings.state": solver if begun else "",
    }
    flat = [taken_apart(state) for state in begun]
    for name in flat[0] if flat else ():
        found = [one[name] for one in flat]
        if not any(isinstance(value, np.ndarray) for value in found):
            values[name] = found
            continue
        shared = [_place(array, known) for array in found]
        own = [array for array, at in zip(found, shared, strict=True) if at == _OWN]
        arrays[name] = np.concatenate([array.ravel() for array in own]) if own else np.empty(0)
        values[f"{name}.shapes"] = [array.shape for array in own]
        values[f"{name}.shared"] = shared
    return arrays, values


def taken_apart(state: State) -> dict[str, Any]:
    """The fields of a state by their names in a checkpoint."""
    arrays, values = flatten(state, _PREFIX)
    return {**arrays, **values}


def _place(array: Array | None, known: list[CurvatureModel]) -> int:
    """Number of the Hessian that an array is, or whether it is its own, or none."""
    if array is None:
        return _NONE
    return next((i for i, other in enumerate(known) if other is array), _OWN)


def unpack_progress(checkpoint: Checkpoint, known: list[CurvatureModel]) -> list[SolveProgress]:
    """What `pack_progress` has packed."""
    arrays, values = checkpoint.arrays, checkpoint.values
    begun = values["standings.begun"]
    states: list[State | None] = [None] * len(begun)
    if any(begun):
        made = iter(_states(checkpoint, SOLVERS[values["standings.state"]].state, known))
        states = [next(made) if one else None for one in begun]
    columns = zip(
        arrays["standings.points"],
        states,
        values["standings.passes"],
        values["standings.held_loss"],
        values["standings.held_weight"],
        strict=True,
    )
    return [SolveProgress(*each) for each in columns]


def _states(checkpoint: Checkpoint, kind: type[State], known: list[CurvatureModel]) -> list[State]:
    """The states of all models that have begun."""
    names = {name for name in (*checkpoint.arrays, *checkpoint.values) if name.startswith(_PREFIX)}
    names -= {name for name in names if name.endswith((".shapes", ".shared"))}
    fields = {name: _unpacked(name, checkpoint, known) for name in names}
    each: list[Mapping[str, Any]] = [
        dict(zip(fields, one, strict=True)) for one in zip(*fields.values(), strict=True)
    ]
    return [unflatten(kind, _PREFIX, Checkpoint(checkpoint.passes, {}, {}, one)) for one in each]


def _unpacked(name: str, checkpoint: Checkpoint, known: list[CurvatureModel]) -> list[Any]:
    """One field of all states."""
    if name not in checkpoint.arrays:
        found: list[Any] = checkpoint.values[name]
        return found
    flat, at = checkpoint.arrays[name], 0
    own = []
    for shape in checkpoint.values[f"{name}.shapes"]:
        size = int(np.prod(shape))
        own.append(flat[at : at + size].reshape(shape))
        at += size
    rest = iter(own)
    shared = checkpoint.values[f"{name}.shared"]
    return [None if i == _NONE else next(rest) if i == _OWN else known[i] for i in shared]


def pack_curvatures(curvatures: Curvatures) -> Packed:
    """What is known of the curvature."""
    arrays: dict[str, NDArray[Any]] = {}
    for i, known in enumerate(curvatures.known):
        if isinstance(known, np.ndarray):
            arrays[f"curvature.{i}.hessian"] = known
        elif isinstance(known, Curvature):
            arrays |= {f"curvature.{i}.V": known.V, f"curvature.{i}.mu": known.mu}
        else:
            arrays |= {
                f"curvature.{i}.{name}": getattr(known, name)
                for name in ("V", "U", "mu", "gamma", "weights")
            }
    return arrays, {
        "curvature.known": len(curvatures.known),
        "curvature.nearest": curvatures.nearest,
    }


def unpack_curvatures(checkpoint: Checkpoint, coordinates: Coordinates) -> Curvatures:
    """What `pack_curvatures` has packed."""
    known: list[CurvatureModel] = []
    for i in range(checkpoint.values["curvature.known"]):
        found = {
            name.rpartition(".")[2]: array
            for name, array in checkpoint.arrays.items()
            if name.startswith(f"curvature.{i}.")
        }
        known.append(
            found["hessian"]
            if "hessian" in found
            else Kronecker(coordinates, **found)
            if "U" in found
            else Curvature(**found)
        )
    return Curvatures(known, checkpoint.values["curvature.nearest"])
