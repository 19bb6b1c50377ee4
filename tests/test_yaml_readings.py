"""What YAML 1.1 reads as something else: numbers that it takes for text are numbers, and names that
it takes for anything else are asked to be quoted."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from stores import two_class_data, write_store

import streamlr
from streamlr.config.feature_values import OF_FEATURES, spread_over_features
from streamlr.config.sections import TrainConfig, load_config
from streamlr.errors import ConfigError


def from_file(folder: Path, text: str) -> TrainConfig:
    (folder / "c.yaml").write_text(text)
    return load_config(folder / "c.yaml")


def value_of(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    return config


# every key that holds a number, with what goes beside it, where it would be refused alone
NUMBERS = {
    "data.sample_axis": "",
    "model.penalty.l2": "",
    "model.penalty.l1": "",
    "validation.fraction": "",
    "validation.patience": "fraction: 0.1",
    "path.count": "",
    "path.ratio": "",
    "path.alpha": "",
    "path.folds": "",
    "solver.tolerance": "",
    "solver.max_passes": "",
    "solver.learning_rate": "",
    "data.retry_seconds": "",
    "cluster.workers": "",
    "cluster.threads_per_worker": "",
    "cluster.memory_limit": "",
    "cluster.stall_seconds": "",
    "run.checkpoint_every": "",
    "run.seed": "",
    "model.bounds.lower": "",
    "model.bounds.upper": "",
}
SHARES = ("validation.fraction", "path.ratio", "path.alpha")


def test_every_key_that_holds_a_number_is_tried() -> None:
    defaults = load_config(
        {"path": {}, "cluster": {"workers": 1, "memory_limit": 1}, "validation": {}}
    ).to_dict()

    def numeric(tree: dict[str, Any], prefix: str = "") -> set[str]:
        found: set[str] = set()
        for key, value in tree.items():
            if isinstance(value, dict):
                found |= numeric(value, f"{prefix}{key}.")
            elif isinstance(value, int | float) and not isinstance(value, bool):
                found.add(prefix + key)
        return found

    assert numeric(defaults) <= set(NUMBERS)


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_that_yaml_reads_as_text_is_that_number(key: str, tmp_path: Path) -> None:
    said = (
        {"1e-1": 0.1, "1E-1": 0.1, "+1e-1": 0.1, ".1e0": 0.1}
        if key in SHARES
        else {"1e0": 1}
        if key == "data.sample_axis"
        else {"1e1": 10, "1E1": 10, "+1e+1": 10, "10e0": 10, ".1e2": 10, "'10'": 10, "1.0e1": 10}
    )
    *sections, name = key.split(".")
    for text, meant in said.items():
        inner = f"{{{name}: {text}{', ' if NUMBERS[key] else ''}{NUMBERS[key]}}}"
        for section in reversed(sections):
            inner = f"{{{section}: {inner}}}"
        beside = [f"{sections[0]}.{NUMBERS[key].replace(': ', '=')}"] if NUMBERS[key] else []
        for found in (from_file(tmp_path, inner), load_config({}, [*beside, f"{key}={text}"])):
            assert value_of(found, key) == meant
            assert type(value_of(found, key)) is type(
                value_of(
                    load_config({}, [*beside, f"{key}={yaml.safe_dump(meant).splitlines()[0]}"]),
                    key,
                )
            )


def test_numbers_in_lists_and_mappings_too(tmp_path: Path) -> None:
    found = from_file(
        tmp_path,
        """
        model:
          penalty: {factors: {age: 1e-3, dose: 2E0}}
          bounds: {lower: [-1e3, +1e-3, null], upper: {3: 1e3}}
          class_weight: {a: 1e1, b: 2e-1}
        path: {lambdas: [1e-3, 1E-2, +1e-1, 1]}""",
    )
    assert found.model.penalty.factors == {"age": 1e-3, "dose": 2.0}
    assert (found.model.bounds.lower, found.model.bounds.upper) == (
        [-1e3, 1e-3, -math.inf],
        {3: 1e3},
    )
    assert found.model.class_weight == {"a": 10.0, "b": 0.2}
    assert found.path is not None
    assert found.path.lambdas == (1e-3, 1e-2, 0.1, 1.0)
    assert load_config({}, ["model.penalty.factors.age=1e-3"]).model.penalty.factors == {
        "age": 1e-3
    }
    assert load_config({}, ["model.penalty.factors={age: 1e-3}"]).model.penalty.factors == {
        "age": 1e-3
    }


def test_text_stays_text(tmp_path: Path) -> None:
    found = from_file(
        tmp_path,
        "data: {target: 1e-3, features: 1e5, weights: 1E-3}\nmodel: {class_weight: {1e-3: 2, b: "
        "1}, penalty: {factors: {1e5: 0}}}\n",
    )
    assert (found.data.target, found.data.features, found.data.weights) == ("1e-3", "1e5", "1E-3")
    assert found.model.class_weight == {"1e-3": 2.0, "b": 1.0}
    assert found.model.penalty.factors == {"1e5": 0.0}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2e9", 2 * 10**9),
        ("+2E+9", 2 * 10**9),
        ("2_000_000_000", 2 * 10**9),
        ("2_000MB", 2 * 10**9),
        (".5GB", 5 * 10**8),
        ("5e-1GB", 5 * 10**8),
        ("2.GB", 2 * 10**9),
    ],
)
def test_bytes_may_be_written_as_any_number(text: str, meant: int, tmp_path: Path) -> None:
    for found in (
        from_file(tmp_path, f"cluster: {{memory_limit: {text}}}"),
        load_config({}, [f"cluster.memory_limit={text}"]),
    ):
        assert found.cluster.memory_limit == meant


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("solver.max_passes=1.5e0", "expected a whole number, got '1.5e0'"),
        ("solver.max_passes=1e400", "expected a whole number, got '1e400'"),
        ("solver.max_passes=nan", "expected a whole number"),
        ("solver.max_passes=ten", "expected a whole number, got 'ten'"),
        ("data.sample_axis=2e0", "is none of 0, 1"),
        ("data.sample_axis=zero", "'zero' is none of 0, 1"),
        ("path.lambdas=[yes, 1]", "expected a list of numbers"),
        ("path.lambdas=[a]", "expected a list of numbers"),
        ("solver.tolerance=1e-", "expected a number, got '1e-'"),
        ("model.class_weight={a: yes}", "expected a number, got True"),
        ("model.penalty.factors={a: no}", "expected a number, got False"),
    ],
)
def test_what_is_no_such_number_is_refused(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config({}, [setting])


def test_an_axis_that_is_written_as_a_float_indexes(tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6), sample_axis=1)
    assert (
        streamlr.train(
            {
                "data": {"store": str(tmp_path / "s"), "sample_axis": 1.0},
                "solver": {"max_passes": 2},
            }
        ).summary["rows"]
        == 400
    )


# Names


ODD = {
    "NO": "true or false",
    "yes": "true or false",
    "on": "true or false",
    "Off": "true or false",
    "No": "true or false",
    "null": "null",
    "~": "null",
    "Null": "null",
    "2024-01-01": "a date",
    "2024-01-01 10:00:00": "a date",
    "012": "another number",
    "0x1F": "another number",
    "1_000": "another number",
    "1:30": "another number",
    "0b11": "another number",
    "+5": "another number",
    "00": "another number",
}


@pytest.mark.parametrize(
    "where",
    [
        "model: {{penalty: {{factors: {{{}: 0}}}}}}",
        "model: {{bounds: {{lower: {{a: 1, {}: 0}}}}}}",
        "model: {{class_weight: {{{}: 3}}}}",
        "solver: {{{}: 1}}",
        "{}: 1",
        "model:\n  penalty: &p\n    factors:\n      {}: 0\npath: *p",
    ],
)
@pytest.mark.parametrize("name", ODD)
def test_a_name_that_yaml_turns_into_something_else_is_to_be_quoted(
    name: str, where: str, tmp_path: Path
) -> None:
    text = where.format(name)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if name in row)
    with pytest.raises(ConfigError) as raised:
        from_file(tmp_path, text)
    assert (
        f"c.yaml', line {line}: YAML reads the key {name} as {ODD[name]}; put it in quotes "
        f"('{name}')" in str(raised.value)
    )


@pytest.mark.parametrize("name", ODD)
def test_in_quotes_it_is_a_name(name: str, tmp_path: Path) -> None:
    for quote in ("'", '"'):
        found = from_file(
            tmp_path,
            f"model: {{penalty: {{factors: {{{quote}{name}{quote}: 0}}}}, class_weight: "
            f"{{{quote}{name}{quote}: 3, other: 1}}}}",
        )
        assert found.model.penalty.factors == {name: 0.0}
        assert found.model.class_weight == {name: 3.0, "other": 1.0}
    assert load_config({}, [f"model.penalty.factors={{'{name}': 0}}"]).model.penalty.factors == {
        name: 0.0
    }
    assert load_config({}, [f"model.penalty.factors.{name}=0"]).model.penalty.factors == {name: 0.0}
    with pytest.raises(
        ConfigError, match=r"in overrides, model\.penalty\.factors, line 1: YAML reads the key"
    ):
        load_config({}, [f"model.penalty.factors={{{name}: 0}}"])


def test_keys_that_say_what_they_are_stay(tmp_path: Path) -> None:
    found = from_file(
        tmp_path,
        "model: {class_weight: {true: 2, False: 1, 0: 3, -7: 1, 0.5: 2, 2.50: 1}, penalty: "
        "{factors: {0: 1, 12: 0}}}",
    )
    assert found.model.class_weight == {True: 2.0, False: 3.0, -7: 1.0, 0.5: 2.0, 2.5: 1.0}
    assert found.model.penalty.factors == {0: 1.0, 12: 0.0}
    written = tmp_path / "again.yaml"
    written.write_text(yaml.safe_dump(found.to_dict()))
    assert load_config(written) == found


@pytest.mark.parametrize("name", [False, True, None, 1.0, (1, 2)])
@pytest.mark.parametrize("key", OF_FEATURES)
def test_a_mapping_whose_keys_are_no_names_has_the_same_advice(key: str, name: Any) -> None:
    _, section, last = key.split(".")
    with pytest.raises(
        ConfigError,
        match=r"is neither the name of a feature nor its number .*wants quotes, since YAML reads "
        r"yes, no",
    ):
        load_config({"model": {section: {last: {name: 0.0}}}})


def test_labels_that_are_text_are_to_be_quoted(tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, np.where(y > 0, "1.50", "12"), (100, 6))
    for label in ("true", "12", "1.50"):
        with pytest.raises(
            ConfigError,
            match=r"the target has no label .*; its labels are text: put them in quotes",
        ):
            streamlr.train(
                {"data": {"store": str(tmp_path / "s")}},
                overrides=[f"model.class_weight={{{label}: 2}}"],
            )
    streamlr.train(
        {"data": {"store": str(tmp_path / "s")}, "solver": {"max_passes": 2}},
        overrides=["model.class_weight={'12': 2, '1.50': 1}"],
    )


def test_a_number_that_is_also_a_name_is_not_guessed_at() -> None:
    names = ("1", "0", "2")
    assert spread_over_features({"1": 0.0}, "model.penalty.factors", 3, names).tolist() == [0, 1, 1]
    assert spread_over_features({2: 0.0}, "model.penalty.factors", 3, names).tolist() == [1, 1, 0]
    with pytest.raises(
        ConfigError, match=r"1 may be the feature named '1' \(number 0\) or feature number 1"
    ):
        spread_over_features({1: 0.0}, "model.penalty.factors", 3, names)


# An infinite factor


@pytest.mark.parametrize(
    ("factors", "name"),
    [("{age: .inf}", "age"), ("[1, .inf]", "1"), ("{3: 1e400}", "3"), ("{age: inf}", "age")],
)
def test_an_infinite_factor_is_bounds_of_0(factors: str, name: str, tmp_path: Path) -> None:
    bounds = (
        rf"bounds of 0: leave the factor out, and set model\.bounds: \{{lower: \{{{name}: "
        rf"0\}}, upper: \{{{name}: 0\}}\}}"
    )
    with pytest.raises(
        ConfigError, match=rf"model\.penalty\.factors.*: inf is out of range; .*{bounds}"
    ):
        from_file(tmp_path, f"model: {{penalty: {{l2: 0.1, factors: {factors}}}}}")


def test_bounds_of_0_are_what_an_infinite_factor_would_be(tmp_path: Path) -> None:
    X, y = two_class_data()
    bounds = yaml.safe_load("{lower: {2: 0}, upper: {2: 0}}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held = streamlr.train(
            {"model": {"penalty": {"l2": 0.01}, "bounds": bounds}, "solver": {"tolerance": 1e-12}},
            X=X,
            y=y,
        ).model
    without = streamlr.train(
        {"model": {"penalty": {"l2": 0.01}}, "solver": {"tolerance": 1e-12}},
        X=np.delete(X, 2, axis=1),
        y=y,
    ).model
    assert held.coef_[0, 2] == 0
    np.testing.assert_allclose(
        np.delete(held.coef_, 2, axis=1), without.coef_, rtol=0, atol=1e-10
    )  # gradients of 1e-12 over curvatures of 0.01 at least
