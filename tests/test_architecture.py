"""The arrows between modules, and the habits that a program can check: read from the source,
function-level imports too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import streamlr

PACKAGE = Path(__file__).parents[1] / "streamlr"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}

# What a unit (a package of streamlr, or a module beside them) may import from other units. Lower
# units come first; nothing imports what comes after it, so there can be no cycle.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "events": set(),
    "text": set(),
    "version": set(),
    "solvers": {"errors"},
    "kernels": {"errors"},
    "config": {"errors", "solvers", "kernels"},
    "reporting": {"errors", "events", "text", "config"},
    "data": {"errors", "text", "config", "kernels"},
    "execution": {"errors", "events", "version", "config", "kernels", "data"},
    "model": {"errors", "text", "config", "kernels", "data"},
    "objective": {"errors", "solvers", "config", "kernels", "execution"},
    "pilot": {"kernels", "data", "execution", "objective", "solvers"},
    "planning": {"errors", "solvers", "config", "kernels", "data", "execution", "pilot"},
    "runs": {
        "errors",
        "events",
        "config",
        "kernels",
        "data",
        "execution",
        "model",
        "objective",
        "solvers",
        "pilot",
        "planning",
    },
    "training": {
        "errors",
        "events",
        "text",
        "config",
        "kernels",
        "data",
        "execution",
        "model",
        "objective",
        "solvers",
        "pilot",
        "planning",
        "runs",
    },
    "scoring": {
        "errors",
        "events",
        "text",
        "config",
        "kernels",
        "data",
        "execution",
        "model",
        "planning",
        "runs",
    },
    "inference": {
        "errors",
        "events",
        "config",
        "kernels",
        "reporting",
        "data",
        "execution",
        "model",
        "objective",
        "solvers",
        "planning",
        "runs",
        "scoring",
    },
    "estimator": {
        "errors",
        "solvers",
        "config",
        "kernels",
        "reporting",
        "data",
        "model",
        "training",
    },
    "testing": {  # what ships for the tests of others; no fit loads it
        "errors",
        "config",
        "kernels",
        "data",
        "execution",
        "training",
    },
    # the package's own names, which are imported when they are asked for
    "streamlr": {
        "errors",
        "events",
        "version",
        "config",
        "model",
        "training",
        "scoring",
        "inference",
        "estimator",
    },
    "cli": {
        "errors",
        "events",
        "config",
        "kernels",
        "reporting",
        "data",
        "execution",
        "planning",
        "training",
        "scoring",
        "inference",
        "streamlr",
    },
}
ALLOWED_OUTSIDE = {  # who alone may import a library
    "zarr": {"data", "scoring"},
    "numcodecs": {"data"},
    "google_crc32c": {"data"},
    "pyarrow": {"data"},
    "dask": {"execution"},
    "distributed": {"execution"},
    "click": {"cli"},
    "tqdm": {"reporting"},
    "yaml": {"config", "runs"},
    "sklearn": {"estimator"},
    "matplotlib": {"reporting"},
    "scipy": {"inference", "estimator"},
    "pytest": {"testing"},
}
NOT_IN_KERNELS = {
    "asyncio",
    "io",
    "logging",
    "os",
    "pathlib",
    "random",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
}
NOT_IN_SOLVERS = NOT_IN_KERNELS - {"logging"}
# Laid out at 100 columns these are longer than the 400 lines that a file may have, and have still
# to be split; none of them may grow, and no other may join them.
NOT_YET_SPLIT = {
    "streamlr.config.sections": 433,
    "streamlr.data.chunks.files": 430,
    "streamlr.data.chunks.stored_array": 600,
    "streamlr.data.ingest.ingest": 412,
    "streamlr.data.source": 477,
    "streamlr.data.sources.store": 440,
    "streamlr.estimator.path_classifier": 449,
    "streamlr.execution.cluster.engine": 409,
    "streamlr.execution.cluster.workers": 425,
    "streamlr.inference.summary": 559,
    "streamlr.kernels.scans.moments": 484,
    "streamlr.objective.objective": 481,
    "streamlr.planning.memory": 505,
    "streamlr.planning.plan": 460,
    "streamlr.training.path": 505,
    "streamlr.training.train": 537,
}
# The same of functions of more than 60 lines.
NOT_YET_CUT = {
    ("streamlr.inference.summary", "summary"): 84,
    ("streamlr.planning.plan", "make_plan"): 80,
    ("streamlr.scoring.scoring", "evaluate"): 69,
    ("streamlr.solvers.convergence", "check_convergence"): 61,
    ("streamlr.training.path", "result"): 68,
}
EXECUTES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy"}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"), filename=str(MODULES[module]))


def imports_of(tree: ast.AST, package: str = "") -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in a tree, with the line; ``from a import b`` gives
    ``a.b`` where that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            origin = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                yield (
                    (f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in MODULES else origin),
                    node.lineno,
                )
        elif isinstance(node, ast.Call) and name_of(node.func) in (
            "__import__",
            "importlib.import_module",
            "import_module",
        ):
            yield "a name that is made while the program runs", node.lineno


def imports(module: str) -> list[tuple[str, int]]:
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    return list(imports_of(tree_of(module), package))


def unit(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "streamlr"


def name_of(node: ast.AST) -> str:
    """``a.b.c`` of an expression, as far as it is one."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(module: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Call):
            yield name_of(node.func), node


def functions(module: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_the_table_of_arrows_names_every_unit_and_has_no_cycle() -> None:
    assert {unit(module) for module in MODULES} == set(ARROWS)
    assert len(ARROWS) + 1 <= 24  # with scripts
    seen: set[str] = set()
    for name, below in ARROWS.items():
        assert below <= seen, f"{name} would import {below - seen}, which stands above it"
        seen.add(name)


def test_the_longest_chain_of_imports_between_units_is_short() -> None:
    height: dict[str, int] = {}
    for name, below in ARROWS.items():
        height[name] = 1 + max((height[other] for other in below), default=0)
    assert max(height.values()) <= 13


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_one_way(module: str) -> None:
    here = unit(module)
    wrong = [
        f"{name} (line {line})"
        for name, line in imports(module)
        if name.split(".")[0] == "streamlr"
        and unit(name) != here
        and unit(name) not in ARROWS[here]
    ]
    assert not wrong, f"{module} imports {', '.join(wrong)}"


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {
        module: {name for name, _ in imports(module) if name in MODULES and name != module}
        for module in MODULES
    }
    # a package's __init__ may import its members, and these one another, but not what only the
    # __init__ gathers
    left = dict(graph)
    while left:
        free = [module for module, needed in left.items() if not needed & set(left)]
        assert free, f"these modules import one another: {sorted(left)}"
        for module in free:
            del left[module]


@pytest.mark.parametrize("library", ALLOWED_OUTSIDE)
def test_a_library_is_imported_in_its_own_place_alone(library: str) -> None:
    users = {
        unit(module)
        for module in MODULES
        for name, _ in imports(module)
        if name.split(".")[0] == library
    }
    assert users <= ALLOWED_OUTSIDE[library]


def test_nothing_is_imported_by_a_name_made_at_run_time() -> None:
    """But the names of the package itself, which are those of its `__all__`, from modules that type
    checkers see imported."""
    assert {
        module for module in MODULES for name, _ in imports(module) if name.startswith("a name")
    } == {"streamlr"}
    names = sorted(name for names in streamlr._HOMES.values() for name in names)
    assert names == streamlr.__all__
    assert set(streamlr._HOMES) <= {name for name, _ in imports("streamlr")}
    assert all(
        getattr(streamlr, name).__module__.startswith(home)
        for home, names in streamlr._HOMES.items()
        for name in names
    )


@pytest.mark.parametrize("module", [module for module in MODULES if unit(module) == "kernels"])
def test_kernels_know_numpy_alone(module: str) -> None:
    for name, line in imports(module):
        top = name.split(".")[0]
        if top == "streamlr":
            assert unit(name) in ("kernels", "errors"), f"line {line}: {name}"
        else:
            assert top == "numpy" or (
                top in sys.stdlib_module_names and top not in NOT_IN_KERNELS
            ), f"line {line}: {name}"
    opened = [
        node.lineno
        for name, node in calls(module)
        if name in ("open", "np.load", "np.save", "np.fromfile", "np.memmap", "input")
    ]
    assert not opened


@pytest.mark.parametrize("module", [module for module in MODULES if unit(module) == "solvers"])
def test_solvers_know_a_problem_and_no_data_paths_or_schedulers(module: str) -> None:
    for name, line in imports(module):
        top = name.split(".")[0]
        if top == "streamlr":
            assert unit(name) in ("solvers", "errors"), f"line {line}: {name}"
        else:
            assert top == "numpy" or (
                top in sys.stdlib_module_names and top not in NOT_IN_SOLVERS
            ), f"line {line}: {name}"


def prints(module: str) -> list[int]:
    found = [
        node.lineno
        for name, node in calls(module)
        if name in ("print", "click.echo", "click.secho", "warnings.warn")
        or name.endswith(("stdout.write", "stderr.write"))
    ]
    return found + [
        node.lineno
        for node in ast.walk(tree_of(module))
        if name_of(node) in ("sys.stdout", "sys.stderr")
    ]


@pytest.mark.parametrize(
    "module", [module for module in MODULES if unit(module) not in ("cli", "reporting")]
)
def test_only_the_command_line_and_reporting_print(module: str) -> None:
    protocol = [
        node.lineno
        for name, node in calls(module)
        if unit(module) == "estimator" and name == "warnings.warn"
    ]  # how scikit-learn tells of a bad end
    assert prints(module) == protocol, f"{module} prints in the lines {prints(module)}"


def test_the_search_for_prints_finds_those_of_the_command_line() -> None:
    assert prints("streamlr.cli.main")
    assert prints("streamlr.reporting.console")


@pytest.mark.parametrize("module", [module for module in MODULES if module != "streamlr"])
def test_no_module_shadows_the_standard_library(module: str) -> None:
    assert module.rpartition(".")[2] not in sys.stdlib_module_names


@pytest.mark.parametrize("module", MODULES)
def test_functions_have_at_most_60_lines_and_files_400(module: str) -> None:
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= NOT_YET_SPLIT.get(module, 400)
    long = {
        function.name: length
        for function in functions(module)
        if (length := (function.end_lineno or 0) - function.lineno + 1)
        > NOT_YET_CUT.get((module, function.name), 60)
    }
    assert not long


@pytest.mark.parametrize("module", MODULES)
def test_nothing_executes_what_it_reads(module: str) -> None:
    packs = (
        {"pickle"} if unit(module) == "testing" else set()
    )  # and reads no more than it has packed
    assert not [
        (name, line) for name, line in imports(module) if name.split(".")[0] in EXECUTES - packs
    ]
    for name, node in calls(module):
        last = name.rpartition(".")[2]
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        assert name not in ("eval", "exec", "compile", "os.system", "os.popen", "os.execv"), (
            f"line {node.lineno}: {name}"
        )
        assert name not in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"), (
            f"line {node.lineno}: {name}"
        )
        assert not (isinstance(named.get("shell"), ast.Constant) and named["shell"].value), (
            f"line {node.lineno}: shell=True"
        )  # type: ignore[attr-defined]
        if last == "load" and name.startswith(("np.", "numpy.")):
            refused = named.get("allow_pickle")
            assert isinstance(refused, ast.Constant), (
                f"line {node.lineno}: np.load without allow_pickle=False"
            )
            assert refused.value is False, f"line {node.lineno}: np.load without allow_pickle=False"


@pytest.mark.parametrize("module", MODULES)
def test_functions_take_at_most_ten_parameters_and_hand_none_through_unnamed(module: str) -> None:
    """More than six want a record; a function that mirrors options of the command line has one
    parameter for each."""
    for function in functions(module):
        decorated = any(
            "option" in ast.dump(decorator) or "command" in ast.dump(decorator)
            for decorator in function.decorator_list
        )
        taken = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        scikit_learn = (
            unit(module) == "estimator" and function.name == "__init__"
        )  # its interface prescribes the signature
        # these name what belongs to the rows one by one
        library = (module, function.name) in (
            ("streamlr.training.train", "train"),
            ("streamlr.training.path", "path"),
        )
        assert decorated or scikit_learn or len(taken) <= 10 + 2 * library, (
            f"{function.name} takes {len(taken)} parameters"
        )
        routed = unit(module) == "estimator" and function.name in (
            "fit",
            "score",
        )  # so does its metadata routing
        assert function.args.kwarg is None or routed, (
            f"{function.name} takes **{function.args.kwarg and function.args.kwarg.arg}"
        )


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented(module: str) -> None:
    tree = tree_of(module)
    assert ast.get_docstring(tree), f"{module} has no docstring"
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    errors = unit(module) == "errors"  # the tree of errors is drawn at the top of its module
    assert not [node.name for node in public if not ast.get_docstring(node) and not errors]


def test_the_walk_sees_imports_inside_functions_and_relative_ones() -> None:
    source = (
        "def f():\n    import zarr.storage\n    from . import source\n    from ..errors "
        "import DataError\n    __import__('os')\n"
    )
    found = {name for name, _ in imports_of(ast.parse(source), "streamlr.data")}
    assert found == {
        "zarr.storage",
        "streamlr.data.source",
        "streamlr.errors",
        "a name that is made while the program runs",
    }
