"""The table of formats: a new reader is a class and a row, and all else derives from the rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.estimate import START_BYTES, VALUE_BYTES, bytes_to_read
from scbignn_infer.label_file import label_file, stem
from scbignn_infer.query.readers import FORMATS, FileQuery, Format, HeldFile, open_query
from scbignn_infer.query.readers.formats import FILES, HDF5
from scbignn_infer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import h5py

    from scbignn_infer._types import Array


class HeldToy(HeldFile):
    """A format that is read whole."""

    kind = "toy of JSON"

    def _load(self) -> ad.AnnData:
        toy = json.loads(self.path.read_text())
        obs, var = pd.DataFrame(index=toy["cells"]), pd.DataFrame(index=toy["genes"])
        return ad.AnnData(sp.csr_matrix(np.array(toy["counts"], np.float32)), obs=obs, var=var)


class StreamedToy(FileQuery):
    """A format in HDF5 of which rows are read."""

    kind = "toy of HDF5"

    def _begin(self) -> int:
        return len(self._root["toy"])

    def _obs(self) -> pd.DataFrame:
        return pd.DataFrame({"batch": "a"}, index=[str(i) for i in range(self.n_cells)])

    def _var(self, matrix: str) -> pd.DataFrame:
        return pd.DataFrame(index=self._root["genes"].asstr()[:])

    def _read(self, matrix: str, cells: slice | Array) -> sp.csr_matrix:
        return sp.csr_matrix(self._root["toy"][cells])

    def _whole(self) -> ad.AnnData:
        return ad.AnnData(self._read("X", slice(None)), obs=self._obs(), var=self._var("X"))


def has_toy(root: h5py.File) -> bool:
    return "toy" in root


ROWS = [
    Format(
        "held toy",
        FILES,
        lambda path: path.suffix == ".toy",
        HeldToy,
        listed="a .toy",
        suffixes=(".toy",),
        count_values=lambda path: path.stat().st_size,
    ),
    Format("streamed toy", HDF5, has_toy, StreamedToy, suffixes=(".toy5",)),
]


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    FORMATS.extend(ROWS)
    yield
    del FORMATS[-len(ROWS) :]


@pytest.fixture(params=["toy", "toy5"])
def toy(request: pytest.FixtureRequest, example: Path, tmp_path: Path) -> Path:
    import h5py

    cells, path = ad.read_h5ad(example)[:40], tmp_path / f"cells.{request.param}"
    counts = cells.X.toarray()
    if request.param == "toy":
        names = {"cells": list(cells.obs_names), "genes": list(cells.var_names)}
        path.write_text(json.dumps({**names, "counts": counts.tolist()}))
    else:
        with h5py.File(path, "w") as file:
            file.update({"toy": counts, "genes": np.array(cells.var_names, "S")})
    return path


@pytest.mark.parametrize("output", ["o.csv", "o.h5ad"])
def test_a_new_format_is_labelled_as_the_file_that_it_was_made_of(
    toy: Path, example: Path, output: str
) -> None:
    settings = Settings(model="human-pbmc", threads=1)
    label_file(toy, toy.with_name(output), settings)
    ad.read_h5ad(example)[:40].copy().write_h5ad(toy.with_name("same.h5ad"))
    label_file(toy.with_name("same.h5ad"), toy.with_name("same.csv"), settings)
    same = pd.read_csv(toy.with_name("same.csv"), index_col=0)["scbignn_cell_type"]
    if output == "o.csv":
        labels = pd.read_csv(toy.with_name(output), index_col=0)["scbignn_cell_type"]
    else:
        labels = ad.read_h5ad(toy.with_name(output)).obs["scbignn_cell_type"]
    assert list(labels) == list(same)
    assert labels.nunique() > 2


def test_what_derives_from_the_table_knows_the_new_format(toy: Path, tmp_path: Path) -> None:
    assert stem(toy) == "cells"
    held = START_BYTES + VALUE_BYTES * toy.stat().st_size if toy.suffix == ".toy" else 0
    assert bytes_to_read(toy) == held
    with pytest.raises(InputError, match=r"\.loom file, an \.rds .*, or a \.toy; "):
        open_query(tmp_path / "absent.toy")


def test_the_base_says_errors_and_closes(toy: Path) -> None:
    with open_query(toy) as cells:
        if toy.suffix == ".toy5":
            assert cells.obs_column("batch") == ["a"] * 40
        with pytest.raises(InputError, match=r"no obs\['absent'\]"):
            cells.obs_column("absent")
        assert cells.uns("scbignn") is None
    toy.write_text("damaged")
    with pytest.raises(InputError, match=r"cells\.toy"):
        open_query(toy)
    if toy.suffix == ".toy5":
        with pytest.raises(InputError, match=r"cannot read .*a whole toy of HDF5"):
            next(cells.blocks("X", 7))  # it is closed


def test_the_first_row_that_recognises_a_file_opens_it(tmp_path: Path) -> None:
    toy = {"cells": ["a", "b"], "genes": ["CD3D"], "counts": [[1], [2]]}
    path = tmp_path / "cells.csv"
    path.write_text(json.dumps(toy))
    with pytest.raises(InputError, match=r"numbers with a header line"):
        open_query(path)
    FORMATS.insert(0, Format("first", FILES, lambda path: path.suffix == ".csv", HeldToy))
    try:
        with open_query(path) as cells:
            assert cells.cell_names() == ["a", "b"]
    finally:
        del FORMATS[0]
