"""One table has one kind of test, and HC1 and clustered errors the small-sample factor of the
program that is named: beside statsmodels and closed forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray
from stores import runner
from test_inference import TIGHT, columns, draw, fitted, train, write

import streamlr
from streamlr.cli.main import cli
from streamlr.errors import ConfigError, DataError
from streamlr.inference.covariance import CORRECTIONS

__all__ = ["fitted"]
Array = NDArray[Any]
Fitted = Callable[..., tuple[Path, dict[str, Any]]]
FAMILIES = ("linear", "logistic", "poisson", "softmax")


def sizes(found: streamlr.Summary) -> tuple[float, int, int]:
    """Observations, parameters and groups."""
    return found.observations, len(found.coefficients), found.groups or 0


def factor(correction: str, found: streamlr.Summary) -> float:
    """What the documentation of each program says."""
    n, d, G = sizes(found)
    linear = found.family == "linear"
    if not G:
        return {
            "statsmodels": n / (n - d),
            "stata": n / (n - d) if linear else n / (n - 1),
            "R-HC1": n / (n - d),
        }[correction]
    both, groups_alone = G / (G - 1) * (n - 1) / (n - d), G / (G - 1)
    return {
        "statsmodels": both,
        "stata": both if linear else groups_alone,
        "R-HC1": both,
        "R-HC0": groups_alone,
        "none": 1.0,
    }[correction]


@pytest.mark.parametrize("weights", [None, "case", "frequency"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_correction_is_a_factor_of_its_own(family: str, weights: Any, fitted: Fitted) -> None:
    run, _ = fitted(family, weighted=weights is not None)
    given: dict[str, Any] = {"weights": weights or "case"}
    bare = streamlr.summary(run, groups="g", correction="none", **given).covariance
    for correction in CORRECTIONS:
        found = streamlr.summary(run, groups="g", correction=correction, **given)
        np.testing.assert_allclose(found.covariance, bare * factor(correction, found), rtol=1e-13)
        assert found.correction == correction
    bare = streamlr.summary(run, errors="HC0", **given).covariance
    for correction in ("statsmodels", "stata", "R-HC1"):
        found = streamlr.summary(run, errors="HC1", correction=correction, **given)
        np.testing.assert_allclose(found.covariance, bare * factor(correction, found), rtol=1e-13)
    for errors, groups in (("HC1", None), ("clustered", "g")):
        plain, named = (
            streamlr.summary(run, errors=errors, groups=groups, correction=each, **given)
            for each in (None, "statsmodels")
        )
        assert (plain.correction, plain.covariance.tobytes()) == (
            "statsmodels",
            named.covariance.tobytes(),
        )


@pytest.mark.parametrize("use_t", [None, True, False])
@pytest.mark.parametrize("errors", ["classical", "robust", "HC1", "clustered"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_table_has_one_kind_of_test(
    family: str, errors: str, use_t: bool | None, fitted: Fitted
) -> None:
    run, _ = fitted(family)
    for correction in (None, *CORRECTIONS) if errors == "clustered" else (None,):
        found = streamlr.summary(
            run,
            errors=errors,
            groups="g" if errors == "clustered" else None,
            use_t=use_t,
            correction=correction,
            confidence=0.9,
        )
        n, d, G = sizes(found)
        with_t = use_t if use_t is not None else family == "linear" and errors == "classical"
        df = G - 1 if G and correction not in ("R-HC0", "R-HC1") else n - d
        tail: Any = scipy.stats.t(df) if with_t else scipy.stats.norm
        statistic = np.array(columns(found, "statistic"))
        assert (found.statistic, found.df_test) == (("t", df) if with_t else ("z", None))
        np.testing.assert_allclose(
            columns(found, "p_value"), 2 * tail.sf(np.abs(statistic)), rtol=1e-9, atol=1e-290
        )
        reach = tail.isf(0.05) * np.array(columns(found, "standard_error"))
        np.testing.assert_allclose(
            columns(found, "upper"), columns(found, "coefficient") + reach, rtol=1e-9
        )
        shown, text = found.to_dict(), str(found)
        if family != "linear":
            assert (shown["f"], shown["chi2"]) == (None, None)
            continue
        beta, q = np.array(columns(found, "coefficient"))[1:], found.df_model
        wald = float(beta @ np.linalg.solve(found.covariance[1:, 1:], beta))
        if with_t:
            assert (
                shown["chi2"],
                shown["chi2_p"],
                "Wald chi²" in text,
                "\nF " in text or "    F " in text,
            ) == (None, None, False, True)
            assert (shown["f"], shown["f_p"]) == (
                pytest.approx(wald / q, rel=1e-6),
                pytest.approx(scipy.stats.f.sf(wald / q, q, df), rel=1e-3),
            )
        else:
            assert (shown["f"], shown["f_p"], "Wald chi²" in text, "df of t " in text) == (
                None,
                None,
                True,
                False,
            )
            assert (shown["chi2"], shown["chi2_p"]) == (
                pytest.approx(wald, rel=1e-6),
                pytest.approx(scipy.stats.chi2.sf(wald, q), rel=1e-3, abs=1e-290),
            )


def test_the_p_of_both_tests_meet_where_there_are_many_groups(tmp_path: Path) -> None:
    data = draw("linear", rows=3000)
    data["X"][:, 1:] = np.random.default_rng(0).normal(
        size=(3000, 2)
    )  # so that a test decides nothing
    data["y"] = 0.02 * data["X"][:, 0] + np.random.default_rng(1).normal(size=3000)
    run = train(write(tmp_path / "s", {**data, "row": np.arange(3000)}), tmp_path / "run", "linear")
    by_t, by_z = (streamlr.summary(run, groups="row", use_t=use_t) for use_t in (True, False))
    np.testing.assert_allclose(
        columns(by_t, "p_value"), columns(by_z, "p_value"), rtol=0, atol=1e-3
    )
    assert by_t.to_dict()["f_p"] == pytest.approx(by_z.to_dict()["chi2_p"], abs=1e-3)


# statsmodels


def design(data: dict[str, Any]) -> Array:
    return np.column_stack([np.ones(len(data["X"])), data["X"]])


@pytest.mark.parametrize("use_t", [True, False])
@pytest.mark.parametrize(
    ("errors", "correction"),
    [
        ("classical", None),
        ("HC0", None),
        ("HC1", None),
        ("clustered", None),
        ("clustered", "none"),
        ("clustered", "R-HC1"),
    ],
)
def test_least_squares_have_the_table_of_statsmodels(
    errors: str, correction: str | None, use_t: bool, fitted: Fitted
) -> None:
    sm = pytest.importorskip("statsmodels.api")
    run, data = fitted("linear")
    found = streamlr.summary(
        run,
        errors=errors,
        groups="g" if errors == "clustered" else None,
        correction=correction,
        use_t=use_t,
    )
    kind = {"classical": "nonrobust", "clustered": "cluster"}.get(errors, errors)
    options: dict[str, Any] = {}
    if errors == "clustered":
        options = {
            "groups": np.unique(data["g"], return_inverse=True)[1],
            "use_correction": correction != "none",
            "df_correction": correction != "R-HC1",
        }
    oracle = sm.OLS(data["y"], design(data)).fit(
        cov_type=kind, use_t=use_t, **({"cov_kwds": options} if options else {})
    )
    # statsmodels' pseudoinverse of features in their units, of a condition of 1e5, loses half of
    # the digits of a variance
    np.testing.assert_allclose(columns(found, "standard_error"), oracle.bse, rtol=1e-6)
    np.testing.assert_allclose(columns(found, "p_value"), oracle.pvalues, rtol=1e-3, atol=1e-290)
    np.testing.assert_allclose(
        np.array([columns(found, "lower"), columns(found, "upper")]).T, oracle.conf_int(), rtol=1e-5
    )
    assert found.f == pytest.approx(float(np.squeeze(oracle.fvalue)), rel=1e-5)
    if use_t:
        assert found.to_dict()["f_p"] == pytest.approx(float(oracle.f_pvalue), rel=1e-3, abs=1e-290)
    else:
        test = oracle.wald_test(np.eye(4)[1:], use_f=False, scalar=True)
        assert found.to_dict()["chi2"] == pytest.approx(float(test.statistic), rel=1e-5)
        assert found.to_dict()["chi2_p"] == pytest.approx(float(test.pvalue), rel=1e-3, abs=1e-290)


@pytest.mark.parametrize("weights", [None, "case"])
@pytest.mark.parametrize("use_t", [True, False])
@pytest.mark.parametrize("family", ["logistic", "poisson", "linear"])
def test_clusters_of_other_families_are_those_of_statsmodels(
    family: str, use_t: bool, weights: Any, fitted: Fitted
) -> None:
    sm = pytest.importorskip("statsmodels.api")
    run, data = fitted(family, weighted=weights is not None)
    kept = data["w"] > 0 if weights else np.ones(len(data["y"]), dtype=bool)
    y = (data["y"] == "yes").astype(float) if family == "logistic" else data["y"]
    of = {
        "logistic": sm.families.Binomial,
        "poisson": sm.families.Poisson,
        "linear": sm.families.Gaussian,
    }[family]()
    groups = np.unique(data["g"], return_inverse=True)[1]
    scale = [1.0, 50.0, 0.02]  # its inverse wants features of one scale
    X = np.column_stack([np.ones(len(y)), data["X"] / scale])
    oracle = sm.GLM(
        y[kept], X[kept], family=of, var_weights=data["w"][kept] if weights else None
    ).fit(tol=1e-14, cov_type="cluster", cov_kwds={"groups": groups[kept]}, use_t=use_t)
    found = streamlr.summary(run, groups="g", use_t=use_t)
    np.testing.assert_allclose(
        columns(found, "standard_error"), oracle.bse / [1.0, *scale], rtol=1e-6
    )
    np.testing.assert_allclose(columns(found, "p_value"), oracle.pvalues, rtol=1e-3, atol=1e-290)
    np.testing.assert_allclose(
        columns(found, "upper"), oracle.conf_int()[:, 1] / [1.0, *scale], rtol=1e-5
    )


# Refusals and the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"correction": "SAS"},
            "correction: 'SAS' is none of statsmodels, stata, R-HC1, R-HC0, none",
        ),
        ({"correction": "stata"}, "correction: errors classical have no small-sample factor"),
        (
            {"errors": "robust", "correction": "stata"},
            r"errors robust have no small-sample factor, .*take errors HC1 \(Stata's "
            r"vce\(robust\)\)",
        ),
        (
            {"errors": "HC1", "correction": "none"},
            "errors HC1 are those with a factor, and 'none' is none; take errors HC0",
        ),
        ({"errors": "HC1", "correction": "R-HC0"}, "take errors HC0"),
    ],
)
def test_a_correction_that_means_nothing_is_refused(
    arguments: dict[str, Any], message: str, fitted: Fitted
) -> None:
    with pytest.raises(ConfigError, match=message):
        streamlr.summary(fitted("linear")[0], **arguments)


def test_the_command_takes_the_same(fitted: Fitted) -> None:
    run, _ = fitted("linear")
    for options, arguments in (
        (
            ["--groups", "g", "--use-t", "--correction", "stata"],
            {"groups": "g", "use_t": True, "correction": "stata"},
        ),
        (["--groups", "g", "--use-z"], {"groups": "g", "use_t": False}),
        (["--errors", "HC1", "--use-t"], {"errors": "HC1", "use_t": True}),
        (["--use-z"], {"use_t": False}),
        ([], {}),
    ):
        done = runner().invoke(cli, ["summary", str(run), "--quiet", "--json", *options])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == streamlr.summary(run, **arguments).to_dict()  # type: ignore[arg-type]
    text = (
        runner()
        .invoke(cli, ["summary", str(run), "--groups", "g", "--use-t", "--correction", "stata"])
        .stderr
    )
    assert "linear model, clustered errors (small-sample factor: stata)" in text
    assert "df of t                            29" in text
    assert "P>|t|" in text
    assert runner().invoke(cli, ["summary", str(run), "--correction", "SAS"]).exit_code == 2


def test_by_z_no_scipy_is_needed(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    run, _ = fitted("linear")
    expected = streamlr.summary(run, groups="g").to_dict()
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    without = streamlr.summary(run, groups="g").to_dict()
    assert without["chi2_p"] == expected["chi2_p"]
    assert streamlr.summary(run, use_t=False).to_dict()["chi2_p"] is not None
    with pytest.raises(ConfigError, match=r"pip install 'streamlr\[inference\]'.*use_t=False"):
        streamlr.summary(run, groups="g", use_t=True)


def test_few_groups_have_wide_intervals_by_t(tmp_path: Path) -> None:
    data = draw("linear")
    half = data["g"] < np.sort(data["g"])[200]
    run = train(write(tmp_path / "s", {**data, "half": half}), tmp_path / "run", "linear")
    by_t, by_z = (streamlr.summary(run, groups="half", use_t=use_t) for use_t in (True, False))
    wider = (np.array(columns(by_t, "upper")) - columns(by_t, "coefficient")) / (
        np.array(columns(by_z, "upper")) - columns(by_z, "coefficient")
    )
    np.testing.assert_allclose(
        wider, scipy.stats.t.isf(0.025, 1) / scipy.stats.norm.isf(0.025), rtol=TIGHT
    )
    assert (by_t.f, by_t.to_dict()["chi2"]) == (
        None,
        None,
    )  # two groups tell nothing of three coefficients together
    with pytest.raises(DataError, match="holds one group only"):
        streamlr.summary(
            train(write(tmp_path / "o", {**data, "g": np.zeros(400)}), tmp_path / "one", "linear"),
            groups="g",
            use_t=True,
        )
