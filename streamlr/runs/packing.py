"""Checkpoints of a path: where every model stands, and what is known of the curvature, committed after a pass.

Fields of the models' states are stacked, so that a file has a few arrays and not thousands; Hessians, which models share, are there once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.objective.objective import Coordinates
from streamlr.pilot.kronecker import Kronecker
from streamlr.pilot.solve_together import Curvature, Curvatures, Known
from streamlr.runs.checkpoint import Checkpoint
from streamlr.solvers import Standing, State
from streamlr.solvers.lbfgs import LbfgsState
from streamlr.solvers.proximal import ProximalState

Array = NDArray[np.float64]
Packed = tuple[dict[str, NDArray[Any]], dict[str, Any]]
"""Arrays, and values as JSON holds them."""

_OWN, _NONE = -1, -2
"""Of a field of a state, in the place of the number of a Hessian that models share: it has its own array, or none."""
_STATES: dict[str, type[LbfgsState] | type[ProximalState]] = {"lbfgs": LbfgsState, "proximal": ProximalState}


def pack_standings(standings: list[Standing], known: list[Known]) -> Packed:
    """Where all models stand."""
    states = [standing.state for standing in standings]
    begun = [state for state in states if state is not None]
    arrays: dict[str, NDArray[Any]] = {"standings.points": np.stack([standing.point for standing in standings])}
    values: dict[str, Any] = {f"standings.{name}": [getattr(standing, name) for standing in standings] for name in ("passes", "held_loss", "held_weight")}
    values |= {"standings.begun": [state is not None for state in states], "standings.state": next((k for k, s in _STATES.items() if begun and isinstance(
        begun[0], s)), "")}
    for field in dataclasses.fields(begun[0]) if begun else ():
        found = [getattr(state, field.name) for state in begun]
        name = f"standings.state.{field.name}"
        if not any(isinstance(value, np.ndarray) for value in found):
            values[name] = found
            continue
        shared = [_NONE if array is None else next((i for i, other in enumerate(known) if other is array), _OWN) for array in found]
        own = [array for array, at in zip(found, shared, strict=True) if at == _OWN]
        arrays[name] = np.concatenate([array.ravel() for array in own]) if own else np.empty(0)
        values |= {f"{name}.shapes": [array.shape for array in own], f"{name}.shared": shared}
    return arrays, values


def unpack_standings(checkpoint: Checkpoint, known: list[Known]) -> list[Standing]:
    """What `pack_standings` has packed."""
    arrays, values = checkpoint.arrays, checkpoint.values
    begun = values["standings.begun"]
    states: list[State | None] = [None] * len(begun)
    if any(begun):
        kind = _STATES[values["standings.state"]]
        fields = {field.name: _unpacked(f"standings.state.{field.name}", checkpoint, known) for field in dataclasses.fields(kind)}
        made = iter([kind(**dict(zip(fields, one, strict=True))) for one in zip(*fields.values(), strict=True)])
        states = [next(made) if one else None for one in begun]
    others = zip(values["standings.passes"], values["standings.held_loss"], values["standings.held_weight"], strict=True)
    return [Standing(point, state, *other) for point, state, other in zip(arrays["standings.points"], states, others, strict=True)]


def _unpacked(name: str, checkpoint: Checkpoint, known: list[Known]) -> list[Any]:
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
    return [None if i == _NONE else next(rest) if i == _OWN else known[i] for i in checkpoint.values[f"{name}.shared"]]


def pack_curvatures(curvatures: Curvatures) -> Packed:
    """What is known of the curvature."""
    arrays: dict[str, NDArray[Any]] = {}
    for i, known in enumerate(curvatures.known):
        if isinstance(known, np.ndarray):
            arrays[f"curvature.{i}.hessian"] = known
        elif isinstance(known, Curvature):
            arrays |= {f"curvature.{i}.V": known.V, f"curvature.{i}.mu": known.mu}
        else:
            arrays |= {f"curvature.{i}.{name}": getattr(known, name) for name in ("V", "U", "mu", "gamma", "weights")}
    return arrays, {"curvature.known": len(curvatures.known), "curvature.nearest": curvatures.nearest}


def unpack_curvatures(checkpoint: Checkpoint, coordinates: Coordinates) -> Curvatures:
    """What `pack_curvatures` has packed."""
    known: list[Known] = []
    for i in range(checkpoint.values["curvature.known"]):
        found = {name.rpartition(".")[2]: array for name, array in checkpoint.arrays.items() if name.startswith(f"curvature.{i}.")}
        known.append(found["hessian"] if "hessian" in found else Kronecker(coordinates, **found) if "U" in found else Curvature(**found))
    return Curvatures(known, checkpoint.values["curvature.nearest"])
