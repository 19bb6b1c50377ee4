"""The configuration: what a YAML file or a mapping may say, checked before anything is read.

Every section is a frozen record whose fields are the keys of the contract. An unknown key is an
error that names the nearest known one; so is a value of the wrong kind. Nothing here touches the
data, Dask or Zarr.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from streamlr.config.feature_values import BoundsConfig, PenaltyConfig, check_penalty
from streamlr.config.path import PathConfig, check_path, what_no_path_has
from streamlr.config.places import HIDDEN as HIDDEN
from streamlr.config.places import local_output, path_text
from streamlr.config.places import public_url as public_url
from streamlr.config.reading import build
from streamlr.config.tree import apply_override, copy_tree, read_tree
from streamlr.errors import ConfigError
from streamlr.kernels.families import FAMILIES

NOT_KEPT = "(not kept)"
"""What stands in ``config.yaml`` for the value of a storage option."""
_LEAST_SECRET = 4


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where the examples lie and how the store names them."""

    store: str = ""
    """Path or URL of the Zarr group."""
    features: str = "X"
    """Name of the feature array."""
    target: str = "y"
    """Name of the label array."""
    weights: str | None = None
    """Name of the array of sample weights, if there is one."""
    offset: str | None = None
    """Name of the array of offsets, which are added to Z, if there is one."""
    exposure: str | None = None
    """Name of the array of exposures, whose logarithms are added to Z, if there is one; for
    ``poisson``."""
    groups: str | None = None
    """Name of the array of groups, if there is one: rows of one group are never split between
    folds, and errors may be clustered by it."""
    sample_axis: Literal[0, 1] = 0
    """The axis of the feature array along which the examples lie."""
    missing_chunks: Literal["error", "fill"] = "error"
    """What a chunk that is absent from the store means: an error, or a chunk full of the fill
    value."""
    fill_value: str | dict[str, str] | None = None
    """What the fill value of a Zarr 2 array with named axes is, where it occurs: ``missing``, as
    xarray reads it, or a ``value``; null: missing, and refused as ambiguous where it is 0 or an end
    of the range of the type. A mapping says of single arrays, by their names, that all of their
    values are such, whatever attributes or conventions have."""
    retry_seconds: float = 300.0
    """For how long a read that fails as networks do (no answer, a broken connection, an overloaded
    server) is tried again; 0: once and no more."""
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """Options of the file system, for stores given by URL."""

    @property
    def shown_store(self) -> str:
        """``store`` as messages and files may have it: without the password and the values of the
        query that a URL may hold."""
        return public_url(self.store)

    def without_secrets(self, text: str) -> str:
        """A text of others, such as the error of a file system, without what must not be told."""
        text = text.replace(self.store, self.shown_store) if self.store else text
        for secret in sorted(_secrets(self), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What is fitted."""

    family: Literal["logistic", "softmax", "linear", "poisson"] = "logistic"
    """Distribution of the target given the features; ``logistic`` of more than two classes is
    ``softmax``."""
    fit_intercept: bool = True
    """Whether the model has an intercept."""
    standardize: bool = False
    """Whether the penalty applies to the coefficients of standardised features (as glmnet and Spark
    mean it)."""
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    """The penalty."""
    bounds: BoundsConfig = field(default_factory=BoundsConfig)
    """Bounds on the coefficients."""
    class_weight: str | dict[Any, float] | None = None
    """What the examples of each label weigh: ``balanced``, or a weight for each label (1 for those
    that are not named)."""


@dataclass(frozen=True, slots=True)
class ValidationConfig:
    """Rows that are held out of the fit, to tell at every pass how well the model does on rows that
    it has not seen."""

    fraction: float = 0.0
    """Share of the rows that is held out, by a hash of their number; with ``data.groups`` of their
    group, so that no group is split."""
    array: str | None = None
    """Name of an array that is 1 (or true) for the rows that are held out and 0 for the others, in
    the place of a share."""
    patience: int | None = None
    """Steps without a lower validation loss after which the run stops, with the model that had the
    lowest; null: it does not stop by that."""


@dataclass(frozen=True, slots=True)
class SolverConfig:
    """How the optimum is found, and when it counts as found."""

    name: Literal["auto", "gradient_descent", "lbfgs", "newton", "proximal"] = "auto"
    """The method."""
    tolerance: float = 1e-8
    """Largest absolute entry of the gradient, in standardised units, at which the solve has
    converged."""
    max_passes: int = 100
    """Most reads of all the data."""
    learning_rate: float = 1.0
    """Step of ``gradient_descent``, in the units of the data."""


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Files (PEM) for connections to a scheduler that are encrypted and prove both sides."""

    ca_file: str = ""
    """Certificate of the authority that signed those of scheduler and workers."""
    cert: str = ""
    """Certificate to show them."""
    key: str = ""
    """Its private key."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Where the sums are taken."""

    kind: Literal["serial", "threads", "processes", "address"] = "threads"
    """The engine."""
    workers: int | None = None
    """Threads of ``threads`` or worker processes of ``processes``; null: one for each core."""
    threads_per_worker: int = 1
    """Threads of each worker process."""
    memory_limit: int | None = None
    """Bytes each worker may use (``4GB`` and the like are understood); null: no limit of streamlr's
    own."""
    address: str | None = None
    """Address of the scheduler, for ``address``."""
    tls: TlsConfig | None = None
    """Files for an encrypted connection to it; null: none."""
    stall_seconds: float = 120.0
    """With ``processes`` and ``address``: after how long without a slab finished the workers that
    are at it are replaced. Where slabs are seen to be slow it is ten times the slowest; a worker
    that gives no sign of life is replaced after half of it."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What is kept of a run."""

    directory: str | None = None
    """The run directory; null: none is written (Python) or ``runs/`` with the name of the
    configuration (command line)."""
    checkpoint_every: int = 1
    """Passes between two checkpoints."""
    seed: int = 0
    """Seed of the row sample."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A whole training run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    run: RunConfig = field(default_factory=RunConfig)
    path: PathConfig | None = None
    """For ``streamlr path`` alone."""

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain mappings, complete, in the order of the contract; a path that
        is not asked for is left out."""
        tree = dataclasses.asdict(self)
        return {name: section for name, section in tree.items() if section is not None}

    def to_public_dict(self) -> dict[str, Any]:
        """The same without what may be secret: the values of the storage options, and parts of the
        store's URL."""
        tree = self.to_dict()
        tree["data"]["store"] = self.data.shown_store
        tree["data"]["storage_options"] = dict.fromkeys(tree["data"]["storage_options"], NOT_KEPT)
        return tree


def _secrets(data: DataConfig) -> set[str]:
    """Texts of a configuration that must not be told: passwords and query values of the URL, and
    values of the storage options."""
    found: set[str] = set()
    if "://" in data.store:
        address, _, query = data.store.replace("#", "?").partition("?")
        for user in re.findall(r"://(.*)@", address):
            found |= {user, *user.split(":")}
        found |= {part.partition("=")[2] or part for part in re.split("[&;#]", query)} | {query}
    values: list[Any] = [data.storage_options]
    while values:
        value = values.pop()
        if isinstance(value, Mapping):
            values += value.values()
        elif isinstance(value, list | tuple | set):
            values += value
        elif isinstance(value, str | bytes):
            found.add(value if isinstance(value, str) else value.decode(errors="replace"))
    quoted = {urllib.parse.quote(text, safe="") for text in found} | {
        urllib.parse.unquote(text) for text in found
    }
    return {
        text
        for text in found | quoted
        if len(text) >= _LEAST_SECRET and text not in ("true", "false", HIDDEN)
    }


def load_config(
    source: str | Path | Mapping[str, Any] | TrainConfig,
    overrides: Sequence[str] = (),
    *,
    with_path: bool | None = True,
) -> TrainConfig:
    """Read a configuration from a YAML file, a mapping or a ready record.

    Parameters
    ----------
    source
        Path of a YAML file, a mapping of sections, or a `TrainConfig`.
    overrides
        Settings of the form ``section.key=value``, applied last; values are read as YAML.
    with_path
        Whether the section ``path`` is meant: true, false (it is dropped, whatever it says), or
        None (it is dropped where the rest goes with no path).

    Raises
    ------
    ConfigError
        For an unreadable file, an unknown key, or a value of the wrong kind; the message names the
        key.
    """
    tree = _as_tree(source)
    for setting in overrides:
        apply_override(tree, setting)
    config: TrainConfig = build(TrainConfig, tree, "")
    if with_path is False or (with_path is None and path_conflict(config) is not None):
        config = dataclasses.replace(config, path=None)
    _check(config)
    return config


def _as_tree(source: str | Path | Mapping[str, Any] | TrainConfig) -> dict[str, Any]:
    if isinstance(source, TrainConfig):
        return source.to_dict()
    if isinstance(source, Mapping):
        return copy_tree(source)
    return read_tree(
        Path(
            path_text(
                source,
                "config",
                "give that of a YAML file, a mapping of sections, or a TrainConfig",
            )
        )
    )


def _check(config: TrainConfig) -> None:
    """Ranges, and keys that only make sense together."""
    positive = {
        "solver.max_passes": config.solver.max_passes,
        "solver.learning_rate": config.solver.learning_rate,
        "cluster.threads_per_worker": config.cluster.threads_per_worker,
        "run.checkpoint_every": config.run.checkpoint_every,
        "solver.tolerance": config.solver.tolerance,
        "cluster.stall_seconds": config.cluster.stall_seconds,
    }
    if config.cluster.workers is not None:
        positive["cluster.workers"] = config.cluster.workers
    if config.cluster.memory_limit is not None:
        positive["cluster.memory_limit"] = config.cluster.memory_limit
    for key, number in positive.items():
        if not 0 < number < float("inf"):
            raise ConfigError(f"{key}: {number} is out of range; it must be above 0 and finite")
    if not 0 <= config.data.retry_seconds < float("inf"):
        raise ConfigError(
            f"data.retry_seconds: {config.data.retry_seconds} is out of range; it must be 0 or "
            "above and finite"
        )
    if config.run.directory is not None:
        local_output(config.run.directory, "run.directory")
    if config.run.seed < 0:
        raise ConfigError(f"run.seed: {config.run.seed} is out of range; it must be 0 or above")
    check_penalty(config.model.penalty, config.model.bounds, config.solver.name)
    _check_family(config)
    _check_fill_value(config)
    _check_validation(config.validation)
    if config.path is not None:
        check_path(config.path)
        conflict = path_conflict(config)
        if conflict is not None:
            raise ConfigError(conflict)
    if config.cluster.kind == "address" and not config.cluster.address:
        raise ConfigError(
            "cluster.address: missing; cluster.kind: address needs one, such as "
            "tcp://scheduler:8786"
        )
    if config.cluster.tls is not None:
        _check_tls(config.cluster.tls, config.cluster.kind, config.cluster.address)
    if config.data.storage_options and "://" not in config.data.store:
        raise ConfigError(
            "data.storage_options: only a store given by URL takes them, and "
            f"{config.data.store!r} is a path; remove them"
        )


def path_conflict(config: TrainConfig) -> str | None:
    """Why what a configuration says is not meant for a path; None where it may be."""
    if config.path is not None and (
        config.validation.array is not None or config.validation.fraction
    ):
        return (
            "validation: a path judges its models by folds (path.folds); remove the section "
            "validation"
        )
    return (
        None
        if config.path is None
        else what_no_path_has(config.path, config.model.penalty, config.solver.name)
    )


def _check_family(config: TrainConfig) -> None:
    """Keys that only make sense for some families."""
    family, kind = config.model.family, FAMILIES[config.model.family]
    if config.model.class_weight is not None and not kind.labelled:
        raise ConfigError(
            f"model.class_weight: the targets of the family {family} are no classes; use "
            "data.weights, or remove it"
        )
    if config.data.offset is not None and config.data.exposure is not None:
        raise ConfigError(
            "data.exposure: goes without data.offset; an exposure is an offset, by its logarithm"
        )
    if config.data.exposure is not None and not kind.counted:
        raise ConfigError(
            f"data.exposure: only model.family: poisson has one, not {family}; give data.offset, "
            "or remove it"
        )
    if config.data.offset is not None and not kind.takes_offset:
        raise ConfigError(
            "data.offset: an offset common to all classes changes nothing in a softmax; remove it"
        )


def _check_fill_value(config: TrainConfig) -> None:
    """Names of arrays that no key mentions would be passed over without a word."""
    data = config.data
    named = [
        data.features,
        data.target,
        data.weights,
        data.offset,
        data.exposure,
        data.groups,
        config.validation.array,
    ]
    for name in data.fill_value if isinstance(data.fill_value, dict) else ():
        if name not in named:
            known = ", ".join(str(array) for array in named if array is not None)
            raise ConfigError(
                f"data.fill_value.{name}: no array of that name is read; those that are: {known}"
            )


def _check_validation(validation: ValidationConfig) -> None:
    if not 0 <= validation.fraction < 1:
        raise ConfigError(
            f"validation.fraction: {validation.fraction} is out of range; it must be 0 or above "
            "and below 1"
        )
    if validation.array is not None and validation.fraction > 0:
        raise ConfigError(
            "validation.array: goes without validation.fraction; the array says which rows are "
            "held out"
        )
    if validation.patience is not None and validation.patience < 1:
        raise ConfigError(
            f"validation.patience: {validation.patience} is out of range; it must be 1 or above"
        )
    if validation.patience is not None and validation.array is None and not validation.fraction:
        raise ConfigError(
            "validation.patience: no row is held out, so there is nothing to stop by; set "
            "validation.fraction or validation.array"
        )


def _check_tls(tls: TlsConfig, kind: str, address: str | None) -> None:
    for key, path in {"ca_file": tls.ca_file, "cert": tls.cert, "key": tls.key}.items():
        if not path:
            raise ConfigError(
                f"cluster.tls.{key}: missing; an encrypted connection needs ca_file, cert and key"
            )
    if kind != "address":
        raise ConfigError(
            f"cluster.tls: only cluster.kind: address connects to others, and it is {kind}; "
            "remove it"
        )
    if address is not None and not address.startswith("tls://"):
        raise ConfigError(
            f"cluster.address: {address!r} is not encrypted; with cluster.tls it starts with tls://"
        )
