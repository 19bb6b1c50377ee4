"""What may be asked for of a summary: which errors, with whose factor, and by which tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamlr.errors import ConfigError
from streamlr.inference.covariance import CORRECTIONS
from streamlr.kernels.scans.information import Errors


@dataclass(frozen=True, slots=True)
class SummaryOptions:
    """What is asked for."""

    errors: Literal["classical", "robust", "HC0", "HC1", "clustered"] = "classical"
    """From the information; or from a sandwich, which holds where the distribution of the target is
    not the model's: each row its own (``robust``, the same as ``HC0``; ``HC1`` multiplies by n / (n
    - d) whatever the family, which statsmodels does in OLS alone), or rows of a group together."""
    weights: Literal["case", "frequency"] = "case"
    """What a weight of ω means: the row counts ω times as much as another (statsmodels'
    ``var_weights``), or it stands for ω rows (``freq_weights``)."""
    confidence: float = 0.95
    """Of the intervals."""
    correction: str | None = None
    """Whose small-sample factor HC1 and clustered errors have; None for that of statsmodels."""
    use_t: bool | None = None
    """Whether tests are by t and F, and not by z and chi-squared; None: of classical errors of the
    linear family alone."""

    def __post_init__(self) -> None:
        kinds = {
            "errors": (self.errors, ("classical", "robust", "HC0", "HC1", "clustered")),
            "weights": (self.weights, ("case", "frequency")),
            "correction": (self.correction or "statsmodels", CORRECTIONS),
        }
        for name, (value, known) in kinds.items():
            if value not in known:
                raise ConfigError(f"{name}: {value!r} is none of {', '.join(known)}")
        if not 0 < self.confidence < 1:
            raise ConfigError(
                f"confidence: {self.confidence} is out of range; it must be above 0 and below 1, "
                "such as 0.95"
            )
        if self.correction is not None and self.errors not in ("HC1", "clustered"):
            raise ConfigError(
                f"correction: errors {self.errors} have no small-sample factor, so that "
                f"{self.correction!r} means "
                "nothing; take errors HC1 (Stata's vce(robust)) or clustered, or leave it out"
            )
        if self.errors == "HC1" and self.correction in ("R-HC0", "none"):
            raise ConfigError(
                f"correction: errors HC1 are those with a factor, and {self.correction!r} is "
                "none; take errors HC0"
            )

    @property
    def meat(self) -> Errors:
        """Of what the meat of the covariance is made."""
        return "robust" if self.errors == "HC0" or self.errors == "HC1" else self.errors

    @property
    def factor(self) -> str | None:
        """Whose small-sample factor it is; None where there is none."""
        return (self.correction or "statsmodels") if self.errors in ("HC1", "clustered") else None

    def with_t(self, has_dispersion: bool) -> bool:
        """Whether tests are by t and F."""
        return (
            self.use_t if self.use_t is not None else has_dispersion and self.errors == "classical"
        )
