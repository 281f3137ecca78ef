"""The notebooks of the docs run from the first cell to the last."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.filterwarnings("ignore")  # of the kernel's own machinery

SHOWN = {
    "clusters": (2, ["CD16 Mono", "FCGR3A", "unsure"]),
    "consensus": (2, ["CD14-low, CD16-positive monocyte", "CL:0000909", "conventional dendritic"]),
    "from_r": (1, ["True", "scbignn_cell_type", "acinar"]),
    "scanpy": (2, ["human-pbmc"]),
    "space": (3, ["genes do not fit", "endocrine cell", "50 counts: of the"]),
}
"""Pictures of a notebook, and words of its tables."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_run(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if path.stem == "from_r":
        request.getfixturevalue("rscript")
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    assert not [o for o in outputs if o.output_type == "error"]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    shown = "".join(o["data"].get("text/plain", "") for o in outputs if "data" in o)
    if path.stem in SHOWN:
        n, words = SHOWN[path.stem]
        assert len(pictures) == n
        assert [word for word in words if word not in shown] == []
