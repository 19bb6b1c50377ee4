"""A remedy is told in the words of whoever was called: options on the command line, arguments in
Python."""

from __future__ import annotations

import ast
import copy
import inspect
import logging
import pickle
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from stores import two_class_data, write_store

import streamlr
from streamlr import errors
from streamlr.cli.main import _Formatter, main
from streamlr.data.ingest.columns import Columns
from streamlr.data.ingest.ingest import IngestSpec, ingest
from streamlr.data.synth import SynthSpec, synthesize
from streamlr.errors import Message, StreamlrError, both, either, for_command_line, option, override
from streamlr.events import Event, PassFinished

PACKAGE = Path(streamlr.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z]")
FOR_THE_COMMAND_LINE_ALONE = {"reporting/metrics.py", "reporting/store.py"}
KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, StreamlrError)
]
TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}


# The source


def options_in(tree: ast.AST) -> Iterator[int]:
    """Lines of texts that name an option otherwise than as the first of two wordings."""
    allowed = {
        id(part)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.args
        if call.func.id == "either"
        for part in ast.walk(call.args[0])
    }
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented):  # texts that stand for themselves explain what is above
            allowed |= {id(part.value) for part in node.body if isinstance(part, ast.Expr)}
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and OPTION.search(text) and id(node) not in allowed:
            yield node.lineno  # type: ignore[attr-defined]


def kinds_named(expression: ast.expr | None) -> set[str]:
    found = [] if expression is None else list(ast.walk(expression))
    return {node.id for node in found if isinstance(node, ast.Name)}


def of_one_wording(tree: ast.AST) -> Iterator[int]:
    """Lines where the text of an error of ours is put into another with one wording alone."""
    names = {kind.__name__ for kind in KINDS}
    for scope in ast.walk(tree):
        ours: set[str | None] = set()
        if isinstance(scope, ast.ExceptHandler) and kinds_named(scope.type) & names:
            ours = {scope.name}
        elif isinstance(scope, ast.FunctionDef):
            given = scope.args.args
            ours = {one.arg for one in given if kinds_named(one.annotation) & names}
        for node in ast.walk(scope) if ours else ():
            shown = node.value if isinstance(node, ast.FormattedValue) else None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                shown = node.args[0] if node.func.id == "str" else None
            if isinstance(shown, ast.Name) and shown.id in ours:
                yield node.lineno  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", [name for name in TREES if not name.startswith("cli/")], ids=lambda name: name
)
def test_no_module_below_the_command_line_names_its_options(name: str) -> None:
    found = list(options_in(TREES[name]))
    assert bool(found) == (name in FOR_THE_COMMAND_LINE_ALONE), f"{name} in the lines {found}"


def test_the_table_of_what_only_the_command_line_shows_is_true() -> None:
    """Nothing but its commands imports these modules."""
    for name in FOR_THE_COMMAND_LINE_ALONE:
        module = "streamlr." + name.removesuffix(".py").replace("/", ".")
        users = {
            user
            for user, tree in TREES.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == module
        }
        assert users
        assert all(user.startswith("cli/") for user in users)


@pytest.mark.parametrize("name", TREES)
def test_an_error_that_is_told_within_another_keeps_both_wordings(name: str) -> None:
    assert not list(of_one_wording(TREES[name]))


def test_the_searches_find_what_they_are_for() -> None:
    wrong = "raise ConfigError(f'{path} exists; add --overwrite or ' + either('--a', '--b'))"
    assert list(options_in(ast.parse(wrong))) == [1, 1]
    assert not list(options_in(ast.parse('def f():\n    """As ``--json``."""\n    "--- a-b"')))
    again = "try:\n    f()\nexcept (KeyError, WriteError) as error:\n    raise E({}) from error"
    for told, found in (('f"{error}; so"', [4]), ("str(error)", [4]), ('f"{both(error)}"', [])):
        assert list(of_one_wording(ast.parse(again.replace("{}", told)))) == found
    taken = 'def f(error: DataError) -> str:\n    return f"{error}"'
    assert list(of_one_wording(ast.parse(taken))) == [2]


# Two wordings of one text


def test_a_remedy_has_the_wording_of_each_interface() -> None:
    text = (
        f"add {option('resume')}, take {option('errors', 'robust')}, {override('data.offset=o')} "
        f"or {either('--use-z', 'use_t=False')}"
    )
    assert for_command_line(Message(text)) == (
        "add --resume, take --errors robust, --set data.offset=o or --use-z"
    )
    assert Message(text) == (
        "add resume=True, take errors='robust', overrides=['data.offset=o'] or use_t=False"
    )
    assert for_command_line("as it is") == both("as it is") == "as it is"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_keeps_both_wordings_wherever_it_goes(kind: type[StreamlrError]) -> None:
    made = kind(f"no room; add {option('resume')}")
    again = kind(f"the worker: {both(made)}")
    travelled = [
        pickle.loads(pickle.dumps(again)),
        cloudpickle.loads(cloudpickle.dumps(again)),
        copy.copy(again),
        copy.deepcopy(again),
        kind(again.args[0]),
    ]
    for error in (again, *travelled):
        assert type(error) is kind
        assert str(error) == f"{error}" == "the worker: no room; add resume=True"
        assert repr(error) == f"{kind.__name__}('the worker: no room; add resume=True')"
        assert for_command_line(error) == "the worker: no room; add --resume"
    assert str(kind()) == for_command_line(kind()) == ""


def test_a_log_is_written_in_the_wording_of_who_reads_it() -> None:
    error = errors.WriteError(f"full; add {option('resume')}")
    rest = Message(f"or {option('overwrite')}")
    record = logging.LogRecord(
        "streamlr", logging.WARNING, "", 1, "%s; %s %d", (error, rest, 3), None
    )
    assert record.getMessage() == "full; add resume=True; or overwrite=True 3"
    shown = _Formatter("%(name)s: %(message)s")
    assert shown.format(record) == "streamlr: full; add --resume; or --overwrite 3"
    assert record.getMessage() == "full; add resume=True; or overwrite=True 3"


# What is met


@dataclass(frozen=True)
class Case:
    """One mistake, made through both interfaces."""

    call: Callable[[], Any]
    typed: str
    argument: str
    option: str


def table_of(**options: Any) -> None:
    spec = {"dtype": options.pop("dtype", None)}
    ingest(["t.csv"], "t", IngestSpec(Columns("y", **options), **spec))


CASES = {
    "a run is there": Case(
        lambda: streamlr.train("c.yaml"),
        "train --config c.yaml",
        "add resume=True to go on with it, overwrite=True to replace it, or choose another "
        "run.directory",
        "add --resume to go on with it, --overwrite to replace it, or choose another --run-dir",
    ),
    "no optimum": Case(
        lambda: streamlr.summary("run"),
        "summary run",
        "train on with resume=True",
        "on with --resume",
    ),
    "no groups": Case(
        lambda: streamlr.summary("ended", errors="clustered"),
        "summary ended --errors clustered",
        "name an array of the store with groups=, or data.groups",
        "name an array of the store with --groups, or data.groups",
    ),
    "another store": Case(
        lambda: streamlr.summary("ended", "more.zarr"),
        "summary ended --store more.zarr",
        "name their store with store=, or",
        "name their store with --store, or",
    ),
    "nothing held out": Case(
        lambda: streamlr.evaluate("run", "s.zarr", validation=True),
        "evaluate run s.zarr --validation",
        "leave out validation=True",
        "leave out --validation",
    ),
    "predictions are there": Case(
        lambda: streamlr.predict("run", "s.zarr", "s.zarr"),
        "predict run s.zarr s.zarr",
        "or add overwrite=True to replace it",
        "or add --overwrite to replace it",
    ),
    "an override of no form": Case(
        lambda: streamlr.load_config("c.yaml", ["solver.name"]),
        "train --config c.yaml --set solver.name",
        "in overrides, 'solver.name': expected KEY=VALUE",
        "--set 'solver.name': expected KEY=VALUE",
    ),
    "no configuration": Case(
        lambda: streamlr.load_config("absent.yaml"),
        "train --config absent.yaml",
        "check the path given to load_config",
        "check the path given to --config",
    ),
    "a column of text": Case(
        table_of,
        "ingest t.csv t --target y",
        "leave it out with drop=['it\\'s b'], or".replace("'it\\'s b'", '"it\'s b"'),
        'leave it out with --drop "it\'s b", or',
    ),
    "kept and dropped": Case(
        lambda: table_of(keep=("a",), drop=("a",)),
        "ingest t.csv t --target y --keep a --drop a",
        "drop and keep both name 'a'",
        "--drop and --keep both name 'a'",
    ),
    "no encoding": Case(
        lambda: table_of(encoding="utf-9"),
        "ingest t.csv t --target y --encoding utf-9",
        "encoding 'utf-9' is no encoding of text",
        "--encoding 'utf-9' is no encoding of text",
    ),
    "classes of numbers": Case(
        lambda: synthesize("n", SynthSpec(3, 2, family="linear", classes=3)),
        "synth n --rows 3 --features 2 --family linear --classes 3",
        "family linear draws numbers, not labels; leave out classes=3",
        "--family linear draws numbers, not labels; leave out --classes 3",
    ),
    "a store is there": Case(
        lambda: synthesize("s.zarr", SynthSpec(3, 2)),
        "synth s.zarr --rows 3 --features 2",
        "or add overwrite=True to replace it",
        "or add --overwrite to replace it",
    ),
}
CONFIG = """data: {store: s.zarr}
cluster: {kind: serial}
solver: {name: gradient_descent, max_passes: 2}
run: {directory: run}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, another with more rows, a run that has not ended, and one that has."""
    folder = tmp_path_factory.mktemp("place")
    write_store(folder / "s.zarr", *two_class_data(300, 3), (100, 3))
    write_store(folder / "more.zarr", *two_class_data(400, 3), (100, 3))
    (folder / "c.yaml").write_text(CONFIG)
    (folder / "t.csv").write_text("a,it's b,y\n1,p,0\n2,q,1\n3,p,0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        streamlr.train("c.yaml")
        wanted = ["solver.name=newton", "solver.max_passes=50", "run.directory=ended"]
        assert streamlr.train(streamlr.load_config("c.yaml", wanted)).status == "converged"
    return folder


@pytest.fixture
def _terminated_as_before() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("_terminated_as_before")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_mistake_is_told_in_the_words_of_the_interface(
    case: Case, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(StreamlrError) as caught:
        case.call()
    assert case.argument in str(caught.value)
    assert not OPTION.search(str(caught.value))
    monkeypatch.setattr(sys, "argv", ["streamlr", *case.typed.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().err
    assert ended.value.code == caught.value.exit_status
    assert case.option in shown
    assert shown.splitlines()[-1] == f"Error: {for_command_line(caught.value)}".splitlines()[-1]


def test_a_note_of_ingest_has_both_wordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{k},{k % 7},{k % 2}\n" for k in range(40))
    Path("t.csv").write_text(f"number,a,y\n{rows}")
    (note,) = ingest(["t.csv"], "s", IngestSpec(Columns("y"))).notes
    assert note.endswith("keep=['number'] brings it back")
    monkeypatch.setattr(sys, "argv", ["streamlr", "ingest", "t.csv", "again", "--target", "y"])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        main()
    signal.signal(signal.SIGTERM, handler)
    assert "--keep number brings it back" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["serial", "processes"])
def test_what_another_process_finds_is_told_in_the_words_of_who_called(
    kind: str, tmp_path: Path
) -> None:
    X, y = two_class_data(400, 3)
    write_store(tmp_path / "s", X, y.astype(np.int8), (100, 3), y_chunk=100)

    def restate(event: Event) -> None:
        """The metadata are written again after the second pass."""
        if isinstance(event, PassFinished) and event.number == 2:
            path = tmp_path / "s" / "X" / "zarr.json"
            path.write_text(path.read_text().replace('"fill_value": 0', '"fill_value": 7'))

    config = {
        "data": {"store": str(tmp_path / "s")},
        "cluster": {"kind": kind, "workers": None if kind == "serial" else 1},
        "solver": {"name": "gradient_descent", "learning_rate": 0.01, "max_passes": 5},
        "run": {"directory": str(tmp_path / "run")},
    }
    with pytest.raises(errors.ChunkError) as caught:
        streamlr.train(config, subscribers=[restate])
    assert "go on with resume=True, or train on the new data with overwrite=True" in str(
        caught.value
    )
    assert for_command_line(caught.value).endswith(
        "go on with --resume, or train on the new data with --overwrite"
    )
