"""Families of distributions with their canonical link, for which dZ = A - Y: one file for each."""

from __future__ import annotations

from streamlr.kernels.families.base import Family
from streamlr.kernels.families.registry import FAMILIES, family_of

__all__ = ["FAMILIES", "Family", "family_of"]
