"""Logistic regression whose penalty is chosen by folds, with scikit-learn's interface."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import sklearn
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer
from sklearn.model_selection import check_cv
from sklearn.utils.metadata_routing import (
    UNUSED,
    MetadataRouter,
    MethodMapping,
    _raise_for_params,
    process_routing,
)

from streamlr.config.sections import ClusterConfig
from streamlr.data.source import Rows
from streamlr.data.sources.adapters import in_memory, stored_rows
from streamlr.errors import ConfigError
from streamlr.estimator.checks import features_of, target_of, weights_of
from streamlr.estimator.classifier import LogisticRegression, classes_of
from streamlr.estimator.holdout import HeldOut, Tried, naming_classes
from streamlr.estimator.linear_model import Restraints
from streamlr.model import Model
from streamlr.reporting.console import Console
from streamlr.solvers.registry import fits_paths
from streamlr.training.folds import lacking
from streamlr.training.path import PathResult, path

_SCORES = {"accuracy": ("accuracy", 1.0), "neg_log_loss": ("loss", -1.0), "roc_auc": ("auc", 1.0)}
"""Those that sums over the rows held out tell, by which no row has to be at hand, and their signs.
"""


class LogisticRegressionCV(LogisticRegression):
    """Logistic regression with the strength of the penalty, and its share of l1, that folds choose;
    the models of all strengths and folds share the passes over the data.

    The objective is that of `LogisticRegression`, in the folds too: ``C`` goes with the sum of the
    loss over the rows that are fitted. The model is fitted to all rows with the chosen ``C``, which
    costs nothing more.

    Parameters
    ----------
    Cs
        Inverse strengths of the penalty (``inf`` for none), or how many of them there are from 1e-4
        to 1e4, evenly by their logarithms.
    l1_ratios
        Shares of the l1 norm in the penalty, from 0 to 1, each of which is tried with each of
        ``Cs``, in passes of its own; None is 0, but for an ``elasticnet``, which refuses it.
    cv
        As in scikit-learn: a number of stratified folds (None: 5), a splitter, or pairs of train
        and test rows; they have to hold out no row twice, and nothing but the rows held out may be
        missing among those to train on.
    penalty
        As for `LogisticRegression`; for none set ``Cs`` to ``[inf]``.
    scoring
        Any scorer of scikit-learn's, by its name or as a callable; None is ``accuracy``.
        ``accuracy``, ``neg_log_loss`` and, of two classes, ``roc_auc`` (to a thousandth, from a
        histogram) are summed in the passes over the data, class weights included. All others
        predict the rows held out, and want ``X`` in memory.
    refit
        Whether the model is that of all rows with what is best for all folds; else the coefficients
        are the mean over the folds of what is best for each.
    use_legacy_attributes
        Which shapes the attributes have: scikit-learn's until 1.9, or those that are its default
        from 1.10 on.
    fit_intercept, class_weight, tol, max_iter, solver, verbose, cluster
        As for `LogisticRegression`; ``newton`` and ``newton-cholesky`` are ``auto`` here.
    dual, intercept_scaling, random_state, n_jobs
        Taken for scikit-learn's sake: the optimum does not depend on them, and ``cluster`` says
        where the work is done.

    Attributes
    ----------
    coef_, intercept_, classes_, n_features_in_, feature_names_in_, status_, model_
        As for `LogisticRegression`; ``status_`` is that of the first path that has not converged,
        if there is one.
    C_, l1_ratio_ : ndarray of shape (1,) or (n_classes,), or float
        What was chosen, the same for all classes; without ``refit`` the mean of what is best for
        each fold. Numbers without legacy attributes.
    Cs_, l1_ratios_ : ndarray of shape (n_cs,) and (n_l1_ratios,)
    scores_ : dict, or ndarray of shape (n_folds, n_l1_ratios, n_cs)
        Scores of the rows held out. The dictionary holds them for each class (of two the second
        alone), (n_folds, n_cs, n_l1_ratios), the same for all; where ``l1_ratios`` is None the last
        axis is left out.
    coefs_paths_ : dict, or ndarray of shape (n_folds, n_l1_ratios, n_cs, 1 or n_classes, n_dof)
        Coefficients in the folds, with the intercept, if any, at the end. The dictionary holds them
        for each class (of two the second alone), (n_folds, n_cs, n_l1_ratios, n_dof); where
        ``l1_ratios`` is None that axis is left out.
    n_iter_ : ndarray of shape (1, n_folds, n_cs, n_l1_ratios) or (n_folds, n_l1_ratios, n_cs)
        Passes that the slowest of the models of a strength took, the same for all folds; where
        ``l1_ratios`` is None the last axis of the former is left out.
    """

    __metadata_request__fit: ClassVar = {
        "groups": UNUSED
    }  # the splitter asks for them, and the scorer for the weights of what it scores
    __metadata_request__score: ClassVar = {"sample_weight": UNUSED}

    def __init__(
        self,
        *,
        Cs: int | Sequence[float] = 10,
        l1_ratios: ArrayLike | None = None,
        fit_intercept: bool = True,
        cv: Any = None,
        dual: bool = False,
        penalty: str = "l2",
        scoring: str | Callable[..., float] | None = None,
        solver: str = "auto",
        tol: float = 1e-8,
        max_iter: int = 100,
        class_weight: str | Mapping[Any, float] | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        refit: bool = True,
        intercept_scaling: float = 1.0,
        random_state: Any = None,
        use_legacy_attributes: bool = True,
        cluster: Mapping[str, Any] | ClusterConfig | None = None,
    ) -> None:
        self.Cs = Cs
        self.l1_ratios = l1_ratios
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.dual = dual
        self.penalty = penalty
        self.scoring = scoring
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.refit = refit
        self.intercept_scaling = intercept_scaling
        self.random_state = random_state
        self.use_legacy_attributes = use_legacy_attributes
        self.cluster = cluster

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        **params: Any,
    ) -> Self:
        """Fit to features and labels, with weights, if any.

        Parameters
        ----------
        X, y, sample_weight
            As for `LogisticRegression`; the scorer gets the weights too, unless scikit-learn's
            metadata routing is on and says otherwise.
        groups
            The group of each example, (m,), for a ``cv`` that asks for it, such as scikit-learn's
            `GroupKFold`.
        **params
            For the splitter and the scorer, if scikit-learn's metadata routing is on.
        """
        _raise_for_params(params, self, "fit")
        Cs, ratios = self._inverse_strengths(), self._l1_shares()
        scorer = None if self._is_summed() else self._get_scorer()
        if scorer is not None and stored_rows(X) is not None:
            raise ConfigError(
                f"scoring is {self.scoring!r}, and X is a {type(X).__name__}, whose rows are not "
                "at hand to predict; it must be one of "
                f"{', '.join(_SCORES)}, which are summed in the passes over the data"
            )
        rows = features_of(self, X, reset=True)
        labels = target_of(self, y, numeric=False)
        classes, codes = classes_of(labels)
        self._check_solver(classes)
        given = weights_of(self, sample_weight, len(labels))
        for_split, for_score = self._routed("fit", {"sample_weight": given, **params}, groups)
        folds = _fold_of(self.cv, codes, for_split)
        order = np.argsort(Cs)
        found = [
            self._path(rows, codes, self._weights(codes, classes, given), folds, Cs[order], share)
            for share in ratios.tolist()
        ]
        self._announce_folds(found[0], classes)
        tried = Tried.of(found, Cs, ratios, np.argsort(order))
        if scorer is None:
            name, sign = _SCORES[self.scoring or "accuracy"]  # type: ignore[index]
            scores = sign * tried.summed[name]
        else:
            scores = HeldOut(X, labels, folds, for_score).scores(
                naming_classes(scorer, classes),
                tried,
                lambda coef, intercept: self._alone(self._named(coef, intercept, classes)),
            )
        self._choose(tried, scores, classes)
        self._keep_paths(tried, scores, classes)
        self._announce_status(found)
        return self

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, **params: Any) -> float:
        """What the scorer makes of the rows, by ``scoring``."""
        _raise_for_params(params, self, "score")
        for_score = self._routed("score", {"sample_weight": sample_weight, **params})[1]
        if self.scoring is None or self.scoring == "accuracy":
            return super().score(X, y, **for_score)
        return float(self._get_scorer()(self, X, in_memory(y, "y"), **for_score))

    def get_metadata_routing(self) -> MetadataRouter:
        """Where scikit-learn's metadata routing leads weights, groups and the like: to the splitter
        and to the scorer."""
        to_scorer = (
            MethodMapping().add(caller="fit", callee="score").add(caller="score", callee="score")
        )
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
            .add(scorer=self._get_scorer(), method_mapping=to_scorer)
        )

    def _routed(
        self, caller: str, params: Mapping[str, Any], groups: ArrayLike | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the splitter and the scorer are given."""
        for_score = {name: value for name, value in params.items() if value is not None}
        for_split = {} if groups is None else {"groups": groups}
        if not sklearn.get_config()["enable_metadata_routing"]:
            return for_split, for_score
        routed = process_routing(self, caller, **for_split, **for_score)
        return routed.splitter.get("split", {}), routed.scorer.get("score", {})

    def _get_scorer(self) -> Any:
        return get_scorer("accuracy" if self.scoring is None else self.scoring)

    def _is_summed(self) -> bool:
        return self.scoring is None or (isinstance(self.scoring, str) and self.scoring in _SCORES)

    def _inverse_strengths(self) -> NDArray[np.float64]:
        Cs = (
            np.logspace(-4, 4, self.Cs)
            if isinstance(self.Cs, int | np.integer)
            else np.array(self.Cs, dtype=np.float64)
        )
        if Cs.ndim != 1 or not len(Cs) or not (Cs > 0).all():
            raise ConfigError(
                f"Cs is {self.Cs!r}; it must be a number of strengths, or a list of numbers above "
                "0 (inf for no penalty)"
            )
        return Cs

    def _l1_shares(self) -> NDArray[np.float64]:
        """Shares of l1, (R,); refuses what cannot be meant."""
        if self.penalty not in ("l2", "l1", "elasticnet", "deprecated"):
            raise ConfigError(
                f"penalty is {self.penalty!r}; it must be 'l2', 'l1' or 'elasticnet'; for none "
                "set Cs=[inf]"
            )
        if self.l1_ratios is None and self.penalty == "elasticnet":
            raise ConfigError(
                "penalty='elasticnet' needs l1_ratios, the shares of the l1 norm, from 0 to 1, "
                "that are to be tried; it is None"
            )
        shares = np.array(
            [1.0] if self.penalty == "l1" else [0.0] if self.l1_ratios is None else self.l1_ratios,
            dtype=np.float64,
        )
        if shares.ndim != 1 or not len(shares) or not ((shares >= 0) & (shares <= 1)).all():
            raise ConfigError(
                f"l1_ratios is {self.l1_ratios!r}; it must be a list of shares of the l1 norm in "
                "the penalty, each from 0 to 1"
            )
        return shares

    def _path(
        self,
        rows: NDArray[Any] | Rows,
        codes: NDArray[np.intp],
        weights: NDArray[np.float64] | None,
        folds: NDArray[np.intp],
        Cs: NDArray[np.float64],
        share: float,
    ) -> PathResult:
        """All strengths, from the largest on, and their folds."""
        if self.scoring == "roc_auc" and codes.max() > 1:
            raise ConfigError("scoring='roc_auc' is for two classes; set neg_log_loss or accuracy")
        total, n_folds, held = (
            len(codes) if weights is None else float(weights.sum()),
            int(folds.max()) + 1,
            folds >= 0,
        )
        validation_weight = np.bincount(
            folds[held], None if weights is None else weights[held], n_folds
        )
        shares = total / np.where(validation_weight < total, total - validation_weight, total)
        solver = self._solver_for(rows, weights, Restraints(1.0, share))
        return path(
            {
                "model": {"family": self._family, "fit_intercept": bool(self.fit_intercept)},
                "solver": {
                    "name": solver if fits_paths(solver) else "auto",
                    "tolerance": float(self.tol),
                    "max_passes": int(self.max_iter),
                },
                "cluster": self._cluster_for(rows),
                "path": {
                    "lambdas": (1.0 / (Cs * total)).tolist(),
                    "alpha": share,
                    "folds": n_folds,
                },
            },
            X=rows,
            y=codes,
            sample_weight=weights,
            folds=folds,
            fold_shares=shares.tolist(),
            subscribers=[Console()] if self.verbose else [],
        )

    def _named(
        self, coef: NDArray[np.float64], intercept: NDArray[np.float64], classes: NDArray[Any]
    ) -> Model:
        return Model(
            coef,
            intercept,
            classes,
            self._column_names,
            "softmax" if len(classes) > 2 else self._family,
        )

    def _alone(self, model: Model) -> LogisticRegression:
        """An estimator that predicts by one of the models."""
        estimator = LogisticRegression(fit_intercept=self.fit_intercept)
        estimator.model_, estimator.coef_, estimator.intercept_, estimator.classes_ = (
            model,
            model.coef_,
            model.intercept_,
            model.classes_,
        )
        for name in {"n_features_in_", "feature_names_in_"} & vars(self).keys():
            setattr(estimator, name, getattr(self, name))
        return estimator

    def _choose(self, tried: Tried, scores: NDArray[np.float64], classes: NDArray[Any]) -> None:
        """Keep the model of the best scores, (K, L, R); folds of which the scorer makes no number
        have no say."""
        _, *grid = scores.shape
        judging = np.flatnonzero(~np.isnan(scores).any(axis=(1, 2)))
        if not len(judging):
            raise ConfigError(
                f"scoring is {self.scoring!r}, and no fold has such a score for each of its "
                "models; give folds that hold out rows of each class"
            )
        scores = scores[judging]
        if self.refit:
            i, j = np.unravel_index(np.argmax(scores.sum(axis=0)), grid)
            coef, intercept = tried.coefficients[i, j], tried.intercepts[i, j]
        else:
            i, j = np.unravel_index(np.argmax(scores.reshape(len(judging), -1), axis=1), grid)
            coef, intercept = (
                values[judging, i, j].mean(axis=0)
                for values in (tried.fold_coefficients, tried.fold_intercepts)
            )
        self.model_ = self._named(coef, intercept, classes)
        self.coef_, self.intercept_, self.classes_ = coef.copy(), intercept.copy(), classes
        self.Cs_, self.l1_ratios_ = tried.Cs, tried.l1_ratios
        C, share = float(tried.Cs[i].mean()), float(tried.l1_ratios[j].mean())
        self.C_: Any = np.full(len(coef), C) if self.use_legacy_attributes else C
        self.l1_ratio_: Any = np.full(len(coef), share) if self.use_legacy_attributes else share

    def _keep_paths(self, tried: Tried, scores: NDArray[np.float64], classes: NDArray[Any]) -> None:
        """Keep what the folds have come to, in the shapes that were asked for."""
        paths, taken = tried.fold_coefficients, np.tile(tried.passes, (len(scores), 1, 1))
        if self.fit_intercept:
            paths = np.concatenate([paths, tried.fold_intercepts[..., None]], axis=-1)
        if not self.use_legacy_attributes:
            self.coefs_paths_: Any
            self.scores_: Any
            self.coefs_paths_, self.scores_, self.n_iter_ = (
                paths.swapaxes(1, 2),
                scores.swapaxes(1, 2),
                taken.swapaxes(1, 2),
            )
            return
        if self.l1_ratios is None:
            paths, scores, taken = paths[:, :, 0], scores[:, :, 0], taken[:, :, 0]
        shown = (classes[1:] if len(classes) == 2 else classes).tolist()
        self.coefs_paths_ = dict(zip(shown, np.moveaxis(paths, -2, 0), strict=True))
        self.scores_, self.n_iter_ = {label: scores.copy() for label in shown}, taken[None]

    def _announce_folds(self, found: PathResult, classes: NDArray[Any]) -> None:
        lacks = found.fold_moments
        if lacks.unknown.any():
            warnings.warn(
                "cv: no row of a class (that weighs anything) is left to be fitted in "
                f"{lacking(lacks.unknown, classes.tolist())}: the models "
                "there cannot know it, and their scores say little",
                stacklevel=3,
            )
        if self.scoring == "roc_auc" and lacks.unseen.any():
            warnings.warn(
                "cv: no row of a class (that weighs anything) is held out in "
                f"{lacking(lacks.unseen, classes.tolist())}: there is no area under "
                "a curve there, and the others choose",
                stacklevel=3,
            )

    def _announce_status(self, found: list[PathResult]) -> None:
        worst = next((result for result in found if result.status != "converged"), found[0])
        self.status_ = worst.status
        if worst.status != "converged":
            warnings.warn(
                f"{type(self).__name__} did not converge ({worst.status}): {worst.reason}",
                ConvergenceWarning,
                stacklevel=3,
            )


def _fold_of(cv: Any, codes: NDArray[np.intp], params: Mapping[str, Any]) -> NDArray[np.intp]:
    """The fold that holds out each row, (m,); -1 for none.

    Raises
    ------
    ConfigError
        Where a row is held out twice, or a fold trains on other rows than those that it does not
        hold out.
    """
    m = len(codes)
    found = np.full(m, -1, dtype=np.intp)
    for fold, (train, test) in enumerate(
        check_cv(cv, codes, classifier=True).split(np.empty((m, 0)), codes, **params)
    ):
        kept, out = np.zeros(m, dtype=bool), np.zeros(m, dtype=bool)
        kept[train], out[test] = True, True
        if (found[out] >= 0).any() or (kept == out).any():
            raise ConfigError(
                f"cv: fold {fold + 1} of {cv!r} holds out rows that another does, or trains on "
                "fewer rows than those that it leaves; take "
                "folds that hold out each row once, such as KFold"
            )
        found[out] = fold
    return found
