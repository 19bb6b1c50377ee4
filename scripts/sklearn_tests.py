#!/usr/bin/env python3
"""scikit-learn's own tests of its linear models, run against streamlr's estimators: how many pass,
and which do not, and why.

Each estimator of `REPLACED` takes the place of its namesake in `sklearn.linear_model` before the
tests are imported. Counted are the tests that build one of them; the others are about other
estimators or private functions. What is not followed stands in `EXPECTED`, each with the reason.
The exit status is 0 if nothing else fails, and, of all of them, if no reason has become idle: one
whose tests all pass is to be taken out.

    scripts/sklearn_tests.py                              all of them, some minutes
    scripts/sklearn_tests.py --only '*::test_warm_*'      a selection
    scripts/sklearn_tests.py --strict                     nothing is expected to fail
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import sklearn
import sklearn.linear_model
from sklearn._loss import HalfPoissonLoss
from sklearn.linear_model._base import LinearClassifierMixin

import streamlr

MODULES = ("tests.test_logistic", "tests.test_base", "_glm.tests.test_glm")
REPLACED = ("LogisticRegression", "LogisticRegressionCV", "LinearRegression", "PoissonRegressor")
"""Those that streamlr has not (yet) stay scikit-learn's."""

_PENALTY = "penalty is not deprecated here, nor l1_ratio=None"
_PASSES = (
    "max_iter counts passes over the data, of which the first looks at them and the next "
    "may end at the optimum of a sample"
)
_WORDS = "the warning has the category of scikit-learn's, but not the words of that solver"
_CALLBACKS = (
    "scikit-learn's callbacks, new in 1.9, are not taken; streamlr.train has events of its own"
)
_DEFAULTS = "no default of LogisticRegressionCV is about to change, of which scikit-learn's warns"
_WIDE = (
    "more unknowns than rows: of the optima the one of smallest norm in standardised, not in "
    "the data's units"
)
_SINGULAR = (
    "as many unknowns as rows, all but singular: a gradient of 1e-8 is farther than 1e-6 "
    "from the optimum, or not reached, of which a warning tells"
)
EXPECTED = {
    "test_logistic.py::test_check_solver_option*": "no name of a solver forbids a penalty, nor "
    "the lack of one, that streamlr has a method "
    "for",
    "test_logistic.py::test_max_iter*-newton-cg-*": _PASSES,
    "test_logistic.py::test_max_iter*-sag*": _WORDS,
    "test_logistic.py::test_max_iter*-liblinear-*": _WORDS,
    "test_logistic.py::test_max_iter*-newton-cholesky-*": _WORDS,
    "test_logistic.py::test_warm_start_newton_solver*": _PASSES,
    "test_logistic.py::test_newton_cholesky_fallback_to_lbfgs*": "it counts the iterations of "
    "scikit-learn's L-BFGS",
    "test_logistic.py::test_dtype_match[[]*-liblinear]": "coef_ is float32 for float32 features, "
    "whatever the solver; scikit-learn's "
    "liblinear has float64",
    "test_logistic.py::test_large_sparse_matrix*": "no name of a solver forbids sparse matrices "
    "with 64-bit indices",
    "test_logistic.py::test_liblinear_with_large_values*": "a feature of 1e100 is fitted; "
    "liblinear would not end",
    "test_logistic.py::test_liblinear_dual_random_state*": "it wants other coefficients for "
    "another random_state; here nothing is "
    "random",
    "test_logistic.py::test_logistic_cv_multinomial_score*": "it hands all parameters to a "
    "private function of scikit-learn's, "
    "which knows no cluster",
    "test_logistic.py::test_logisticregressioncv_warns_with_use_legacy_attributes": _DEFAULTS,
    "test_logistic.py::test_lr_scoring_warns": _DEFAULTS,
    "test_logistic.py::test_penalty_deprecated*": _PENALTY,
    "test_logistic.py::test_l1_ratio_None_deprecated*": _PENALTY,
    "test_logistic.py::test_l1_ratio_non_elasticnet*": _PENALTY,
    "test_logistic.py::test_lr_penalty_l1ratio_incompatible*": _PENALTY,
    "test_logistic.py::test_logistic_regression_callback*": _CALLBACKS,
    "test_base.py::test_inplace_data_preprocessing*-None]": "it wants copy_X=False to write to X, "
    "which is never done",
    "test_base.py::test_raises_value_error_if_positive_and_sparse*": "sparse features may have "
    "coefficients that are not "
    "negative",
    "test_base.py::test_linear_regression_sample_weight_consistency*X_shape2]": _SINGULAR,
    "test_glm.py::test_glm_regression_unpenalized*wide-PoissonRegressor()-*False-lbfgs]": _WIDE,
    "test_glm.py::test_linalg_warning_with_newton_solver*": "no warning of LAPACK's; a Hessian "
    "that cannot be factored is "
    "regularised without a word",
}
"""Tests (patterns of names) that are not followed, and why."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one test ended."""

    name: str
    """File, function and parameters."""
    outcome: str
    """``passed``, ``failed`` or ``skipped``."""
    concerned: bool
    """Whether it built or fitted an estimator of streamlr."""
    message: str
    """The first line of what went wrong."""
    traceback: str
    """All of it."""

    @property
    def why(self) -> str | None:
        """Why it is expected to fail, if it is."""
        return next((why for pattern, why in EXPECTED.items() if fnmatch(self.name, pattern)), None)


class Tally:
    """A plugin of pytest that keeps how the tests ended, and leaves out what was not asked for."""

    def __init__(self, only: list[str]) -> None:
        self.results: list[Result] = []
        self._only = only
        self._concerned = False

    def concern(self) -> None:
        self._concerned = True

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._only:
            items[:] = [
                item
                for item in items
                if any(fnmatch(name_of(item.nodeid), pattern) for pattern in self._only)
            ]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        self._concerned = False
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        text = report.longreprtext if report.failed else ""
        crash = getattr(report.longrepr, "reprcrash", None)
        message = (
            str(crash.message if crash is not None else text[-200:]).strip().partition("\n")[0]
        )
        self.results.append(
            Result(
                name_of(report.nodeid),
                report.outcome,
                self._concerned or report.failed,
                message,
                text,
            )
        )


def name_of(node: str) -> str:
    """``test_base.py::test_x[1]``, without the folders."""
    path, _, rest = node.partition("::")
    return f"{Path(path).name}::{rest}"


def replace(tally: Tally) -> None:
    """Put streamlr's estimators where the tests import scikit-learn's from, with the private
    methods that the tests make their references with."""
    for name in REPLACED:
        if hasattr(streamlr, name):
            estimator = getattr(streamlr, name)
            estimator.__init__ = telling(estimator.__init__, tally)
            estimator.fit = telling(estimator.fit, tally)
            setattr(sklearn.linear_model, name, estimator)
    streamlr.PoissonRegressor._get_loss = lambda self, xp=None, device=None: HalfPoissonLoss()
    streamlr.LogisticRegression._predict_proba_lr = LinearClassifierMixin._predict_proba_lr


def telling(method: Any, tally: Tally) -> Any:
    @functools.wraps(method)
    def tells(*args: Any, **options: Any) -> Any:
        tally.concern()
        return method(*args, **options)

    return tells


def files() -> list[str]:
    """Where the tests are; none where they were left out of the installation."""
    folder = Path(sklearn.linear_model.__file__).parent
    found = [folder.joinpath(*module.split(".")).with_suffix(".py") for module in MODULES]
    return [str(path) for path in found if path.exists()]


def idle_patterns(results: list[Result]) -> list[str]:
    """Those of `EXPECTED` that have tests, of which none fails."""
    outcomes = {
        pattern: {result.outcome for result in results if fnmatch(result.name, pattern)}
        for pattern in EXPECTED
    }
    return [
        pattern
        for pattern, found in outcomes.items()
        if "passed" in found and "failed" not in found
    ]


def show(results: list[Result], unexpected: list[Result], idle: list[str]) -> None:
    counted = [result for result in results if result.concerned]
    columns = ("passed", "expected to fail", "failed", "skipped")
    kind = {
        id(result): result.outcome
        if result.outcome != "failed" or result in unexpected
        else "expected to fail"
        for result in counted
    }
    print(
        f"scikit-learn {sklearn.__version__}: {len(counted)} of its {len(results)} tests concern "
        "streamlr's estimators\n"
    )
    print(f"{'':<20}" + "".join(f"{column:>18}" for column in columns))
    for file in sorted({result.name.partition("::")[0] for result in counted}):
        tally = Counter(kind[id(result)] for result in counted if result.name.startswith(file))
        print(f"{file:<20}" + "".join(f"{tally[column]:18}" for column in columns))
    reasons: dict[str, Counter[str]] = {}
    for result in counted:
        if kind[id(result)] == "expected to fail":
            reasons.setdefault(str(result.why), Counter())[
                result.name.partition("::")[2].partition("[")[0]
            ] += 1
    for why, tests in sorted(reasons.items(), key=lambda pair: -pair[1].total()):
        print(
            f"\n{tests.total():4}  {why}\n      "
            f"{', '.join(f'{name} ({count})' for name, count in tests.items())}"
        )
    for pattern in idle:
        print(f"\nIDLE {pattern}\n      expected to fail, and all of them pass")
    for result in unexpected:
        print(f"\nFAILED {result.name}\n      {result.message}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="names of tests, such as '*::test_warm_*'",
    )
    parser.add_argument("--strict", action="store_true", help="expect no failure")
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole of each unexpected failure"
    )
    options = parser.parse_args()
    if not files() or importlib.util.find_spec("sklearn.conftest") is None:
        print("this scikit-learn was installed without its tests", file=sys.stderr)
        return 2
    tally = Tally(options.only)
    replace(tally)
    package = str(Path(sklearn.__file__).parent)
    pytest.main(
        [
            *files(),
            "-c",
            os.devnull,
            "--rootdir",
            package,
            "--confcutdir",
            package,
            "-p",
            "no:cacheprovider",
            "-p",
            "no:terminal",
        ],
        plugins=[tally],
    )
    unexpected = [
        result
        for result in tally.results
        if result.outcome == "failed" and (options.strict or result.why is None)
    ]
    idle = [] if options.only or options.strict else idle_patterns(tally.results)
    show(tally.results, unexpected, idle)
    if options.traceback:
        print("".join(f"\n{result.name}\n{result.traceback}\n" for result in unexpected))
    return 1 if unexpected or idle or not tally.results else 0


if __name__ == "__main__":
    sys.exit(main())
