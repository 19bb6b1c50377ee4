"""The configuration: every key of the contract, what each refuses, and what the refusals say."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamlr.config.sections import ClusterConfig, SolverConfig, TrainConfig, load_config
from streamlr.config.tree import flat_settings
from streamlr.errors import ConfigError

TOP = Path(__file__).parents[1]

CONTRACT: dict[
    str, Any
    # every key, and what it is where nothing is said; the store and the run directory have no value
    # of their own
] = {
    "data.features": "X",
    "data.target": "y",
    "data.weights": None,
    "data.offset": None,
    "data.exposure": None,
    "data.groups": None,
    "data.sample_axis": 0,
    "data.missing_chunks": "error",
    "data.fill_value": None,
    "data.retry_seconds": 300.0,
    "model.family": "logistic",
    "model.fit_intercept": True,
    "model.standardize": False,
    "model.penalty.l2": 0.0,
    "model.penalty.l1": 0.0,
    "model.penalty.factors": None,
    "model.bounds.lower": None,
    "model.bounds.upper": None,
    "model.class_weight": None,
    "validation.fraction": 0.0,
    "validation.array": None,
    "validation.patience": None,
    "solver.name": "auto",
    "solver.tolerance": 1e-8,
    "solver.max_passes": 100,
    "solver.learning_rate": 1.0,
    "cluster.kind": "threads",
    "cluster.workers": None,
    "cluster.threads_per_worker": 1,
    "cluster.memory_limit": None,
    "cluster.address": None,
    "cluster.tls": None,
    "cluster.stall_seconds": 120.0,
    "run.checkpoint_every": 1,
    "run.seed": 0,
}
OTHER_VALUES: dict[str, Any] = {  # one allowed value of every key that is not its default
    "data.store": "there.zarr",
    "data.features": "counts",
    "data.target": "label",
    "data.weights": "w",
    "data.offset": "o",
    "data.groups": "g",
    "data.sample_axis": 1,
    "data.missing_chunks": "fill",
    "data.fill_value": "value",
    "data.retry_seconds": 12.5,
    "model.fit_intercept": False,
    "model.standardize": True,
    "model.penalty.l2": 0.25,
    "model.penalty.factors": [1.0, 0.5, 0.0],
    "model.bounds.lower": 0.0,
    "model.bounds.upper": {"age": 2.0, 1: 3.0},
    "model.class_weight": {0: 1.5, "yes": 2.0},
    "validation.fraction": 0.25,
    "solver.name": "proximal",
    "solver.tolerance": 1e-5,
    "solver.max_passes": 7,
    "solver.learning_rate": 0.125,
    "cluster.kind": "processes",
    "cluster.workers": 3,
    "cluster.threads_per_worker": 2,
    "cluster.memory_limit": 2_000_000_000,
    "cluster.address": "tcp://host:8786",
    "cluster.stall_seconds": 4.5,
    "run.directory": "runs/there",
    "run.checkpoint_every": 5,
    "run.seed": 11,
}


def nested(key: str, value: Any) -> dict[str, Any]:
    tree: Any = value
    for name in reversed(key.split(".")):
        tree = {name: tree}
    return tree


def value_of(config: TrainConfig, key: str) -> Any:
    found: Any = config
    for name in key.split("."):
        found = getattr(found, name)
    return found


def keys_of(tree: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in tree.items():
        found |= (
            keys_of(value, f"{prefix}{key}.")
            if isinstance(value, dict) and value
            else {prefix + key}
        )
    return found


# What is accepted


@pytest.mark.parametrize("key", CONTRACT)
def test_defaults_are_those_of_the_contract(key: str) -> None:
    found = value_of(load_config({}), key)
    assert found == CONTRACT[key]
    assert type(found) is type(CONTRACT[key])


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_every_key_is_read_from_mapping_file_and_set_alike(key: str, tmp_path: Path) -> None:
    value = OTHER_VALUES[key]
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(nested(key, value)))
    from_set = load_config(
        {}, [f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"]
    )
    for config in (
        load_config(nested(key, value)),
        load_config(path),
        load_config(str(path)),
        from_set,
    ):
        assert value_of(config, key) == value
        assert type(value_of(config, key)) is type(value)


def test_no_key_is_outside_the_contract_but_options_of_the_file_system() -> None:
    documented = set(CONTRACT) | {"data.store", "run.directory"}
    assert keys_of(load_config({}).to_dict()) == documented | {"data.storage_options"}


@pytest.mark.parametrize("text", ["1e-8", "1.0e-8", "0.00000001", "'1e-8'"])
def test_a_tolerance_without_a_point_is_a_number(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"  # YAML 1.1 reads 1e-8 as text
    path.write_text(f"solver: {{tolerance: {text}}}")
    assert load_config(path).solver.tolerance == 1e-8
    assert load_config({}, [f"solver.tolerance={text}"]).solver.tolerance == 1e-8


def test_whole_numbers_serve_as_numbers_and_floats_without_fraction_as_whole_numbers() -> None:
    config = load_config({"model": {"penalty": {"l2": 1}}, "solver": {"max_passes": 50.0}})
    assert isinstance(config.model.penalty.l2, float)
    assert (config.solver.max_passes, type(config.solver.max_passes)) == (50, int)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (1000, 1000),
        ("1000", 1000),
        (2e9, 2_000_000_000),
        ("2e9", 2_000_000_000),
        ("512B", 512),
        ("1kB", 1000),
        ("1 KiB", 1024),
        ("300MB", 300_000_000),
        ("300 mib", 300 * 2**20),
        ("4GB", 4_000_000_000),
        ("4GiB", 4 * 2**30),
        ("1.5GB", 1_500_000_000),
        (" 2TB ", 2 * 10**12),
        ("0.5TiB", 2**39),
    ],
)
def test_memory_sizes_mean_bytes(said: Any, meant: int) -> None:
    assert load_config({"cluster": {"memory_limit": said}}).cluster.memory_limit == meant


def test_empty_sections_and_an_empty_file_are_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing but a comment\n")
    assert load_config(path) == TrainConfig()
    assert load_config({"solver": None, "model": {"penalty": None}}) == TrainConfig()


def test_to_dict_and_back_is_the_same_configuration(tmp_path: Path) -> None:
    overrides = [
        f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"
        for key, value in OTHER_VALUES.items()
    ]
    config = load_config(
        {"data": {"store": "s3://bucket/a.zarr", "storage_options": {"anon": True}}}, overrides[1:]
    )
    written = tmp_path / "c.yaml"
    written.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    assert load_config(config.to_dict()) == config
    assert load_config(config) == config
    assert load_config(written) == config
    assert list(config.to_dict()) == ["data", "model", "validation", "solver", "cluster", "run"]


def test_numbers_survive_the_written_configuration_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"  # yaml.safe_dump writes 1e-08 without a point: text to YAML 1.1
    for l2 in (1e-8, 1 / 569, 5e-324, 1e300, 0.1 + 0.2):
        path.write_text(yaml.safe_dump(load_config({"model": {"penalty": {"l2": l2}}}).to_dict()))
        assert load_config(path).model.penalty.l2 == l2


def test_sources_are_left_as_they_were() -> None:
    tree = {"solver": {"name": "lbfgs"}}
    config = load_config(tree, ["solver.name=newton", "model.penalty.l2=1"])
    assert tree == {"solver": {"name": "lbfgs"}}
    changed = load_config(config, ["solver.name=auto"])
    assert (config.solver.name, changed.solver.name) == ("newton", "auto")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.solver.name = "auto"  # type: ignore[misc]


def test_the_last_set_wins_over_earlier_ones_and_over_the_file() -> None:
    config = load_config(
        {"solver": {"max_passes": 1}}, ["solver.max_passes=2", "solver.max_passes=3"]
    )
    assert config.solver.max_passes == 3


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("data.store=a=b.zarr", "data.store", "a=b.zarr"),
        (" data.store =x", "data.store", "x"),
        ("data.store=s3://b/a.zarr", "data.store", "s3://b/a.zarr"),
        ("data.weights=null", "data.weights", None),
        ("data.weights=", "data.weights", None),
        ("data.target=y", "data.target", "y"),
        ("model.fit_intercept=false", "model.fit_intercept", False),
        ("data.store='12'", "data.store", "12"),
        ("run.directory=rüns/😀", "run.directory", "rüns/😀"),
        ("model.penalty={l2: 3}", "model.penalty.l2", 3.0),
    ],
)
def test_set_takes_whatever_follows_the_first_equals_sign(
    setting: str, key: str, value: Any
) -> None:
    assert value_of(load_config({"data": {"weights": "w"}}, [setting]), key) == value


# What is refused, and what the refusal says


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("solver.tolernce", "did you mean 'solver.tolerance'"),
        ("solver.Name", "did you mean 'solver.name'"),
        ("sovler", "did you mean 'solver'"),
        (
            "model.penalty.L2",
            "did you mean 'model.penalty.l2'|nearest known key is 'model.penalty.l2'",
        ),
        ("data.sampleaxis", "did you mean 'data.sample_axis'"),
        ("cluster.worker", "did you mean 'cluster.workers'"),
        ("run.dir", "'run.directory'"),
        ("model.penalty.zzz", "nearest known key is 'model.penalty.l"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(key: str, nearest: str) -> None:
    for make in (lambda: load_config(nested(key, 1)), lambda: load_config({}, [f"{key}=1"])):
        with pytest.raises(ConfigError, match=f"unknown key '{key}'.*({nearest})"):
            make()


def test_keys_that_are_no_text_are_unknown_keys() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'solver\.1'"):
        load_config({"solver": {1: 2}})
    with pytest.raises(ConfigError, match=r"unknown key 'solver\.None'"):
        load_config({"solver": {None: 2}})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data.store", 5, "expected text, got 5"),
        ("data.store", ["a"], "expected text"),
        ("data.store", None, "expected text, got None"),
        ("data.features", True, "expected text"),
        ("data.weights", 1, "expected text"),
        ("data.sample_axis", 2, "2 is none of 0, 1"),
        ("data.sample_axis", True, "True is none of 0, 1"),
        ("data.missing_chunks", "eror", "'eror' is none of error, fill.*did you mean 'error'"),
        ("data.fill_value", "mising", "'mising' is none of missing, value; did you mean 'missing'"),
        ("data.fill_value", True, "True is none of missing, value"),
        ("data.storage_options", 3, "expected a mapping, got 3"),
        ("model.family", "gamma", "'gamma' is none of logistic"),
        ("model.fit_intercept", "yes", "expected true or false, got 'yes'"),
        ("model.fit_intercept", 1, "expected true or false, got 1"),
        ("model.standardize", None, "expected true or false"),
        ("model.penalty", 0.1, "expected a section with keys, got 0.1"),
        ("model.penalty.l2", "much", "expected a number, got 'much'"),
        ("model.penalty.l2", [1], "expected a number"),
        (
            "solver.name",
            "lbgfs",
            "'lbgfs' is none of auto, gradient_descent, lbfgs, newton.*did you mean 'lbfgs'",
        ),
        ("solver.name", ["auto"], "is none of auto"),
        ("solver.max_passes", 1.5, "expected a whole number, got 1.5"),
        ("solver.max_passes", True, "expected a whole number, got True"),
        ("solver.max_passes", "ten", "expected a whole number"),
        ("solver.max_passes", None, "expected a whole number"),
        ("cluster.kind", "thread", "did you mean 'threads'"),
        ("cluster.workers", "all", "expected a whole number"),
        (
            "cluster.memory_limit",
            "4 parsecs",
            "expected bytes such as 4GB or 512MiB, got '4 parsecs'",
        ),
        ("cluster.memory_limit", "-4GB", "expected bytes"),
        ("cluster.memory_limit", True, "expected bytes"),
        ("cluster.memory_limit", "lots", "expected bytes"),
        ("cluster.address", 8786, "expected text"),
        ("run.seed", "x", "expected a whole number"),
        ("run.directory", 1, "expected text"),
        ("solver", "lbfgs", "expected a section with keys, got 'lbfgs'"),
        ("data", ["a"], "expected a section"),
    ],
)
def test_a_value_of_the_wrong_kind_names_its_key_and_itself(
    key: str, value: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: .*{words}"):
        load_config(nested(key, value))


def test_what_is_said_of_the_fill_values_of_single_arrays_is_checked() -> None:
    said = {"X": "value", "w": "missing"}
    assert load_config({"data": {"weights": "w", "fill_value": said}}).data.fill_value == said
    with pytest.raises(ConfigError, match=r"data\.fill_value\.X: 0 is none of missing, value"):
        load_config({"data": {"fill_value": {"X": 0}}})
    with pytest.raises(
        ConfigError,
        match=r"data\.fill_value\.w: no array of that name is read; those that are: X, y",
    ):
        load_config({"data": {"fill_value": said}})


@pytest.mark.parametrize("key", ["solver.tolerance", "solver.learning_rate", "model.penalty.l2"])
@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_numbers(key: str, value: bool) -> None:
    with pytest.raises(ConfigError, match=f"{key}: expected a number, got {value}"):
        load_config(nested(key, value))


@pytest.mark.parametrize(
    "key",
    [
        "solver.max_passes",
        "solver.learning_rate",
        "solver.tolerance",
        "cluster.threads_per_worker",
        "cluster.workers",
        "cluster.memory_limit",
        "run.checkpoint_every",
    ],
)
def test_what_must_be_above_zero_is_refused_at_and_below_it(key: str) -> None:
    for value in (0, -1):
        with pytest.raises(
            ConfigError, match=rf"{key}: {value}(\.0)? is out of range; it must be above 0"
        ):
            load_config(nested(key, value))


@pytest.mark.parametrize(
    "key", ["solver.learning_rate", "solver.tolerance", "model.penalty.l2", "model.penalty.l1"]
)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, ".inf", "nan"])
def test_numbers_must_be_finite(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: .*(finite|expected a number)"):
        load_config(nested(key, value))


@pytest.mark.parametrize("value", [math.inf, math.nan, "1e999GB", "1e400"])
def test_memory_limits_must_be_finite(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.memory_limit"):
        load_config({"cluster": {"memory_limit": value}})


def test_numbers_beyond_a_float_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.penalty\.l2"):
        load_config({"model": {"penalty": {"l2": 10**400}}})


def test_penalties_below_zero_are_refused() -> None:
    for key in ("model.penalty.l2", "model.penalty.l1"):
        with pytest.raises(
            ConfigError, match=rf"{key}: -0.5 is out of range; it must be 0 or above"
        ):
            load_config(nested(key, -0.5))


def test_keys_that_only_make_sense_together_are_asked_for_together() -> None:
    with pytest.raises(
        ConfigError,
        match=r"cluster\.address: missing; cluster\.kind: address needs one, such as tcp://",
    ):
        load_config({"cluster": {"kind": "address"}})
    with pytest.raises(
        ConfigError,
        match=r"data\.storage_options: only a store given by URL takes them, and 'a\.zarr' is a "
        r"path",
    ):
        load_config({"data": {"store": "a.zarr", "storage_options": {"anon": True}}})
    options = {"anon": True}
    assert (
        load_config(
            {"data": {"store": "s3://b/a.zarr", "storage_options": options}}
        ).data.storage_options
        == options
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "solver.name",
            r"in overrides, 'solver\.name': expected KEY=VALUE.*such as solver\.name=lbfgs",
        ),
        ("=lbfgs", "expected KEY=VALUE"),
        ("", "expected KEY=VALUE"),
        ("solver.name=[", r"in overrides, solver\.name: the value '\[' is not valid YAML"),
        ("solver.name=a: b: c", "not valid YAML"),
        ("solver.name.deep=1", "'name' is a value, not a section"),
        ("solver=3", "solver: expected a section"),
        ("..=1", "unknown key"),
    ],
)
def test_a_set_that_cannot_be_meant_says_why(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config({"solver": {"name": "auto"}}, [setting])


def test_files_that_are_no_configuration_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"no configuration file at '.*absent\.yaml'; check the path given to load_config",
    ):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(tmp_path)
    for name, content, words in (
        ("list.yaml", b"[1, 2]", "holds a list; a configuration is a mapping of sections"),
        ("text.yaml", b"hello", "holds a str"),
        ("broken.yaml", b"data: {store: x", "is not valid YAML"),
        ("latin.yaml", b"data: {store: \xff\xfe}", "cannot read"),
        ("tabs.yaml", b"data:\n\tstore: x\n", "is not valid YAML"),
        ("two.yaml", b"data: {}\n---\ndata: {}\n", "is not valid YAML"),
        ("control.yaml", b"data: {store: \x00}", "is not valid YAML"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            load_config(tmp_path / name)


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {flag}']",
        "!!python/object/apply:builtins.open ['{flag}', 'w']",
        "!!python/object/new:pathlib.Path ['{flag}']",
        "!!python/name:os.system",
        "!!python/module:os",
    ],
)
def test_hostile_yaml_executes_nothing(value: str, tmp_path: Path) -> None:
    flag = tmp_path / "executed"
    text = value.replace("{flag}", str(flag))
    path = tmp_path / "hostile.yaml"
    path.write_text(f"data:\n  store: {text}\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(path)
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config({}, [f"data.store={text}"])
    assert not flag.exists()


# What is shipped


def test_there_is_a_configuration_for_each_of_the_quickstart_the_big_store_and_the_cluster() -> (
    None
):
    assert {"quickstart.yaml", "big.yaml", "cluster.yaml"} <= {
        path.name for path in (TOP / "configs").glob("*.yaml")
    }


@pytest.mark.parametrize(
    "path", sorted((TOP / "configs").glob("*.yaml")), ids=lambda path: path.name
)
def test_shipped_configurations_load_and_say_all_that_a_run_needs(path: Path) -> None:
    config = load_config(path)
    assert config.data.store.endswith(".zarr")
    assert config.run.directory == f"runs/{path.stem}"
    assert set(yaml.safe_load(path.read_text())) == {"data", "model", "solver", "cluster", "run"}
    assert load_config(config.to_dict()) == config


def test_the_quickstart_shows_the_defaults() -> None:
    config = load_config(TOP / "configs" / "quickstart.yaml")
    assert config.solver == SolverConfig()
    assert config.cluster == ClusterConfig()
    assert {key: value_of(config, key) for key in CONTRACT} == CONTRACT


@pytest.mark.parametrize("family", ["logistic", "softmax", "linear", "poisson"])
def test_every_family_is_a_choice(family: str) -> None:
    assert load_config({}, [f"model.family={family}"]).model.family == family


def test_class_weights_are_balanced_or_numbers() -> None:
    assert load_config({}, ["model.class_weight=balanced"]).model.class_weight == "balanced"
    assert load_config({"model": {"class_weight": {"a": 2}}}).model.class_weight == {"a": 2.0}
    assert (
        load_config({"data": {"exposure": "e"}, "model": {"family": "poisson"}}).data.exposure
        == "e"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["model.class_weight=balancd"],
            "model.class_weight: expected balanced, null, or a mapping",
        ),
        (["model.class_weight={a: b}"], "model.class_weight.a: expected a number"),
        (["model.class_weight={a: 0}"], "model.class_weight.a: 0.0 is out of range"),
        (
            ["model.family=linear", "model.class_weight=balanced"],
            "the targets of the family linear are no classes",
        ),
        (
            ["data.offset=o", "data.exposure=e", "model.family=poisson"],
            "data.exposure: goes without data.offset",
        ),
        (["data.exposure=e"], "only model.family: poisson has one, not logistic"),
        (
            ["data.offset=o", "model.family=softmax"],
            "an offset common to all classes changes nothing",
        ),
    ],
)
def test_what_goes_with_no_such_family_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config({}, settings)


def test_keys_that_are_numbers_have_a_dotted_name_too() -> None:
    assert flat_settings({"model": {"class_weight": {0: 2.0, "a": 1.0}}}) == [
        ("model.class_weight.0", 2.0),
        ("model.class_weight.a", 1.0),
    ]
