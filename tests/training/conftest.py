"""What the tests of the training half share: a small real reference and models trained on it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scbignn_training.cell_level import CellGraph
    from scbignn_training.data import Cells, Reference, Study
    from scbignn_training.recipe import Recipe
    from scbignn_training.settings import Settings
    from scbignn_training.train import Model

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = ("torch", "torch_geometric", "sklearn", "onnx", "onnxscript")
ABSENT = [name for name in MODULES if find_spec(name) is None]


class Untested(pytest.Module):
    """A test file that cannot run: skipped, or failed where everything has to run."""

    def collect(self):
        reason = f"the extra 'training' is not installed ({', '.join(ABSENT)} missing)"
        if os.environ.get("SCBIGNN_REQUIRE_DATA") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> object:
    """Take the place of this folder's files where PyTorch is not installed."""
    return Untested.from_parent(parent, path=module_path) if ABSENT else None


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that sums come out alike each time."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def still_one_thread() -> Iterator[None]:
    """Undo what a command or a library has set, before this test and before the next."""
    import torch

    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pancreas() -> Path:
    """Return 417 human islet cells x 4,000 genes: counts and ``obs["cell_type"]``."""
    return REPOSITORY / "tests" / "data" / "pancreas400.h5ad"


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Return settings that train in seconds."""
    from scbignn_training.settings import Settings

    return Settings(
        gene_epochs=2,
        em_epochs=1,
        folds=2,
        cell_epochs=2,
        net_genes=200,
        ranked_genes=600,
        panel_genes=300,
        factors=8,
    )


@pytest.fixture(scope="session")
def parts(pancreas: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return three files of disjoint cells: ``labelled`` (3 of 5), ``unlabelled``, ``query``.

    The unlabelled file lacks every seventh gene, has one that nobody knows and no labels.
    """
    adata = ad.read_h5ad(pancreas)
    place = adata.obs.groupby("cell_type", observed=True).cumcount().to_numpy() % 5
    folder = tmp_path_factory.mktemp("parts")
    unlabelled = adata[place == 3, np.arange(adata.n_vars) % 7 > 0].copy()
    unlabelled.var_names = ["NOBODYS", *unlabelled.var_names[1:]]
    del unlabelled.obs["cell_type"]
    cells = {
        "labelled": adata[place < 3].copy(),
        "unlabelled": unlabelled[:, ::-1].copy(),
        "query": adata[place == 4].copy(),
    }
    for name, part in cells.items():
        part.write_h5ad(folder / f"{name}.h5ad")
    return {name: folder / f"{name}.h5ad" for name in cells}


@pytest.fixture(scope="session")
def recipe(parts: dict[str, Path], settings: Settings) -> Recipe:
    """Return the recipe of a model of 11 types with EM on unlabelled cells."""
    from scbignn_training.recipe import Recipe, Source

    return Recipe(
        name="tiny",
        description="Islet cells.",
        tissue="pancreas",
        label_key="cell_type",
        min_cells=8,
        reference=[Source(file=str(parts["labelled"]), citation="Baron et al. 2016")],
        unlabelled=[Source(file=str(parts["unlabelled"]))],
        ontology={"alpha": "CL:0000171"},
        settings=settings,
    )


@pytest.fixture(scope="session")
def model(recipe: Recipe) -> Model:
    """Return a model trained by the recipe; read it only."""
    import torch

    from scbignn_training.train import train

    torch.set_num_threads(1)
    return train(recipe)


@pytest.fixture(scope="session")
def reference(parts: dict[str, Path]) -> Reference:
    """Return the labelled cells of the recipe as they are joined; read it only."""
    from scbignn_training.data import join, read_study

    return join([read_study(parts["labelled"], label_key="cell_type")], min_cells=8)


@pytest.fixture(scope="session")
def foreign(parts: dict[str, Path]) -> Study:
    """Return the unlabelled cells of the recipe as they are read; read it only."""
    from scbignn_training.data import read_study

    return read_study(parts["unlabelled"])


@pytest.fixture(scope="session")
def gold(model: Model) -> Cells:
    """Return the model's training cells over its ranked genes."""
    return model.reference.cells(600)


@pytest.fixture(scope="session")
def held_out(model: Model, parts: dict[str, Path]) -> Cells:
    """Return cells that the model has never seen, over its ranked genes."""
    from scbignn_training.data import Cells, read_study

    study = read_study(parts["query"], label_key="cell_type")
    known = np.isin(study.labels.astype(str), model.reference.cell_types)
    column = {s: i for i, s in enumerate(study.symbols)}
    counts = study.counts[known][:, [column[s] for s in model.reference.symbols]]
    totals = np.asarray(counts.sum(axis=1), np.float32).ravel()
    codes = np.searchsorted(model.reference.cell_types, study.labels[known].astype(str))
    return Cells(counts[:, :600], totals, np.ones(600, dtype=bool), codes)


@pytest.fixture(scope="session")
def bundle(model: Model, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the model's bundle; read it only."""
    import torch

    from scbignn_training.pack import write_bundle

    torch.set_num_threads(1)
    return write_bundle(model, recipe, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def torch_says() -> Callable[[Model, ad.AnnData, Settings], tuple[CellGraph, np.ndarray]]:
    """Return what finds the graph and the logits of a model's torch pair on an AnnData."""
    import scipy.sparse as sp
    import torch

    from scbignn_training.data import Cells
    from scbignn_training.em import run_gene_level

    def say(model: Model, adata: ad.AnnData, settings: Settings) -> tuple[CellGraph, np.ndarray]:
        counts = adata[:, model.reference.symbols].X
        cells = Cells(
            sp.csr_matrix(counts[:, :600]),
            np.asarray(counts.sum(axis=1), np.float32).ravel(),
            np.ones(600, dtype=bool),
            np.empty(0, np.int64),
        )
        graph = run_gene_level(model.pair.gene, cells, settings)
        with torch.no_grad():
            return graph, model.pair.cell(graph.gene_logits, graph).numpy()

    return say


@pytest.fixture(scope="session")
def clusters() -> Callable[..., CellGraph]:
    """Return what makes a graph of four well-separated types of which the genes tell little."""
    import torch

    from scbignn_training.cell_level import make_graph
    from scbignn_training.settings import Settings

    def make(seed: int, n: int = 120, confidence: float = 1.2) -> CellGraph:
        torch.manual_seed(seed)
        codes = torch.arange(n) % 4
        targets = torch.eye(4)[codes]
        embedding = torch.randn(4, 10)[codes] + 0.2 * torch.randn(n, 10)
        logits = (confidence * targets + 1.2 * torch.randn(n, 4)).log_softmax(1)
        return make_graph(embedding, logits, targets, Settings())

    return make
