"""Imports point one way, the runtime stays light, and signatures keep the house's manners."""

from __future__ import annotations

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import networkx as nx
import pytest

import scbignn_infer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
RUNTIME, TRAINING = ROOT / "scbignn_infer", ROOT / "training" / "scbignn_training"
FILES = sorted(RUNTIME.rglob("*.py"))
FLOORS = (
    {"_types", "errors", "plain"},
    {"settings"},
    {"model"},
    {"network"},
    {"query"},
    {"annotation"},
    {"output"},
    {"bound", "child", "common_label", "estimate", "evaluation", "labelling"},
    {"annotator", "doctor"},
    {"explanation", "gene_evidence", "nearest_model", "qualification", "sharing"},
    {"report"},
    {"api", "label_file"},
    {"apart", "batch"},
    {"service"},
    {"cli"},
)
"""Folders and modules from the lowest to the highest: each imports only from below, or within."""
ONLY_IMPORTER = {
    "onnxruntime": "sessions",
    "pynndescent": "descent",
    "jinja2": "page",
    "fastapi": "service",
    "uvicorn": "service",
}
HEAVY = {"torch", "torch_geometric", "sklearn", "scanpy", "onnx", "onnxscript", "numba"}


def imports(file: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Yield the dotted names that a file imports, type-checking blocks aside."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module(file: Path) -> str:
    """Return the folder or the module at the top of the runtime that a file is, or is in."""
    return file.relative_to(RUNTIME).with_suffix("").parts[0]


def dotted(file: Path) -> str:
    """Return the name by which a file is imported."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def own_modules(file: Path) -> set[str]:
    """Return the folders and top modules of the runtime that a file imports."""
    parts = [name.split(".") for name in imports(file)]
    names = set().union(*FLOORS)
    return {p[1] for p in parts if p[0] == "scbignn_infer" and len(p) > 1 and p[1] in names}


def test_every_folder_has_a_floor() -> None:
    assert {module(f) for f in FILES} - {"__init__"} == set().union(*FLOORS)


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_imports_point_down(file: Path) -> None:
    if file == RUNTIME / "__init__.py":
        assert own_modules_at_import(file) == set()
        return
    height = {name: i for i, floor in enumerate(FLOORS) for name in floor}
    own = module(file)
    wrong = {other for other in own_modules(file) - {own} if height[other] >= height[own]}
    assert not wrong, f"{dotted(file)} imports {wrong}, which are no lower than itself"


def test_no_imports_go_round() -> None:
    """Also within a folder, and within a function."""
    known = {dotted(file) for file in FILES}
    graph = nx.DiGraph()
    for file in FILES:
        names = set(imports(file)) & known
        folders = {n for n in names if any(other.startswith(f"{n}.") for other in names)}
        graph.add_edges_from((dotted(file), n) for n in names - folders - {dotted(file)})
    assert list(nx.simple_cycles(graph)) == []


def own_modules_at_import(file: Path) -> set[str]:
    """Return the runtime modules that importing the file loads."""
    names = imports(file, top_level_only=True)
    return {n.split(".")[1] for n in names if n.startswith("scbignn_infer.")}


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_runtime_imports_nothing_heavy(file: Path) -> None:
    tops = {name.split(".")[0] for name in imports(file)}
    assert not tops & HEAVY
    for module, importer in ONLY_IMPORTER.items():
        assert module not in tops or importer in (file.stem, file.parent.name)
    assert "scbignn_training" not in tops or file == RUNTIME / "cli" / "train.py"


def test_training_imports_of_the_runtime_are_no_cli() -> None:
    for file in TRAINING.glob("*.py"):
        assert not own_modules(file) & {"annotator", "cli", "doctor", "label_file"}, file.stem


def test_training_modules_import_no_circle() -> None:
    graph = {
        f.stem: {
            name.split(".")[1]
            for name in imports(f)
            if name.startswith("scbignn_training.") and name.count(".") == 1
        }
        for f in TRAINING.glob("*.py")
    }
    while graph:
        leaves = {name for name, needs in graph.items() if not needs & set(graph)}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in leaves}


def loaded_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after running ``code``."""
    program = f"import sys\n{code}\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return set(done.stdout.decode().split())


def test_importing_the_package_loads_nothing_but_itself() -> None:
    loaded = loaded_after("import scbignn_infer")
    assert not loaded & {*HEAVY, "numpy", "scipy", "anndata", "onnxruntime", "click", "rich"}


def test_help_loads_nothing_heavy() -> None:
    code = (
        "from scbignn_infer.cli import main\n"
        "import io, contextlib\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['--help'], standalone_mode=False)"
    )
    assert not loaded_after(code) & {*HEAVY, "numpy", "scipy", "anndata", "onnxruntime"}


def test_matrices_need_neither_anndata_nor_pandas() -> None:
    code = (
        "import numpy as np\n"
        "from scbignn_infer import Annotator\n"
        "a = Annotator.load('human-pbmc', device='cpu', threads=1)\n"
        "genes = a.bundle.gene_symbols[:300]\n"
        "a.annotate_matrix(np.random.default_rng(0).poisson(1, (20, 300)), genes)"
    )
    assert not loaded_after(code) & {*HEAVY, "anndata", "pandas", "h5py", "pynndescent"}


UNUSED = {
    *HEAVY,
    "anndata",
    "asyncio",
    "dask",
    "distributed",
    "fastapi",
    "jinja2",
    "matplotlib",
    "multiprocessing",
    "numcodecs",
    "pandas",
    "pyarrow",
    "pynndescent",
    "umap",
    "zarr",
}
"""What takes long to be imported and has no part in a plain labelling."""


@pytest.mark.parametrize("output", ["out.csv", "out.h5ad"])
@pytest.mark.parametrize("model", [(), ("-m", "human-pbmc")], ids=["chosen", "named"])
def test_a_plain_labelling_loads_what_it_uses_alone(
    tmp_path: Path, example: Path, output: str, model: tuple[str, ...]
) -> None:
    words = ["annotate", str(example), *model, "-o", str(tmp_path / output), "--threads", "1", "-q"]
    code = (
        "from scbignn_infer.cli import main\n"
        f"main({words!r}, standalone_mode=False)\n"
        "held = {'scipy.special', 'scipy.linalg', 'scipy.sparse.linalg', 'scbignn_infer.apart'}\n"
        "assert not held & set(sys.modules), held & set(sys.modules)"
    )
    assert not loaded_after(code) & UNUSED
    assert (tmp_path / output).stat().st_size > 1000


def test_public_functions_take_few_positional_arguments() -> None:
    for name in scbignn_infer.__all__:
        value = getattr(scbignn_infer, name)
        if not inspect.isfunction(value):
            continue
        parameters = inspect.signature(value).parameters.values()
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert len(positional) <= 3, name
        assert value.__doc__
        assert "Parameters" in value.__doc__ or not parameters, name


def public_names() -> list[str]:
    """Return the public names but the errors, of which the root speaks for all."""
    root = scbignn_infer.ScBiGNNError
    names = [n for n in scbignn_infer.__all__ if n != "ScBiGNNError"]
    values = {n: getattr(scbignn_infer, n) for n in names}
    return [
        "ScBiGNNError",
        *(n for n, v in values.items() if not (isinstance(v, type) and issubclass(v, root))),
    ]


@pytest.mark.parametrize("name", public_names())
@pytest.mark.filterwarnings("ignore::UserWarning")  # examples have few genes or made-up cells
def test_public_names_have_an_example_that_runs(name: str) -> None:
    value = getattr(scbignn_infer, name)
    assert "Examples\n" in inspect.getdoc(value)
    found = doctest.DocTestFinder(recurse=False).find(value, name, globs={})
    outcome = [doctest.DocTestRunner().run(test) for test in found]
    assert sum(o.failed for o in outcome) == 0
    assert sum(o.attempted for o in outcome) > 0 or name == "CellExplanation"


def test_public_names_are_there_and_no_others() -> None:
    assert set(scbignn_infer.__all__) <= set(dir(scbignn_infer))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        scbignn_infer.nothing  # noqa: B018


def test_hdf5_is_opened_by_readers_and_writers_alone() -> None:
    for file in FILES:
        if module(file) not in {"output", "query"}:
            assert "h5py" not in {name.split(".")[0] for name in imports(file)}, file


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield the functions of runtime and training, commands of click aside."""
    for file in [*FILES, *sorted(TRAINING.glob("*.py"))]:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            decorators = " ".join(map(ast.unparse, node.decorator_list))
            if "command" not in decorators and ".option" not in decorators:
                yield file, node


def test_no_flag_is_positional() -> None:
    """``copy(a, True)`` tells a reader nothing."""
    flags = [
        f"{file.stem}.{node.name}({argument.arg})"
        for file, node in functions()
        for argument in (*node.args.posonlyargs, *node.args.args)
        if argument.annotation is not None and ast.unparse(argument.annotation) == "bool"
    ]
    assert flags == []


def test_functions_fit_a_screen() -> None:
    """Docstrings and the declarations of options aside, and longer ones are named here."""
    long = {}
    for file, node in functions():
        body = node.body
        if ast.get_docstring(node) is not None:
            body = body[1:]
        lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        if lines > 60:
            long[f"{file.stem}.{node.name}"] = lines
    assert set(long) == LONG, long


LONG = {
    "show._print_card",  # one table after another
    "pack._spec",  # a record with many fields
}
