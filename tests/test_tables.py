"""Text tables: either way round, as programs write them."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.readers import open_query

GENES = ["CD3D", "MS4A1", "NKG7", "ENSG00000167286.8", "odd"]
KNOWN = {"CD3D", "MS4A1", "NKG7", "ENSG00000167286"}
TABLE = pd.DataFrame(
    np.array([[0, 3, 0, 1, 0], [2, 0, 0, 0, 5], [0, 0, 1.5, 0, 0]]),
    index=["cell a", "cell,b", "c"],
    columns=GENES,
)


def read(path, **how):
    with open_query(path, **({"known_genes": KNOWN} | how)) as query:
        assert not query.h5ad
        values = sp.vstack(list(query.blocks("X", 2))).toarray()
        return pd.DataFrame(values, query.cell_names(), query.gene_columns("X")["index"])


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.csv.gz", "a.tsv.gz"])
@pytest.mark.parametrize("turned", [False, True])
def test_either_way_round_is_found(tmp_path, name, turned):
    path = tmp_path / name
    (TABLE.T if turned else TABLE).to_csv(path, sep="," if ".csv" in name else "\t")
    pd.testing.assert_frame_equal(read(path), TABLE, check_dtype=False)


@pytest.mark.parametrize("separator", ["\t", ";", " "])
def test_another_separator_than_the_name_says(tmp_path, separator):
    TABLE.rename(index=str.split).reset_index(drop=True).to_csv(tmp_path / "a.csv", sep=separator)
    np.testing.assert_array_equal(read(tmp_path / "a.csv"), TABLE)


def test_a_header_without_a_name_for_the_first_column_as_r_writes_it(tmp_path):
    lines = TABLE.T.to_csv(sep="\t").splitlines(keepends=True)
    (tmp_path / "a.tsv").write_text("".join([lines[0].lstrip("\t"), *lines[1:]]))
    pd.testing.assert_frame_equal(read(tmp_path / "a.tsv"), TABLE, check_dtype=False)


def test_names_that_tell_nothing_are_asked_for(tmp_path):
    TABLE.to_csv(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"0 known genes .*cell a.*--orientation"):
        read(tmp_path / "a.csv", known_genes=set())
    found = read(tmp_path / "a.csv", known_genes=set(), orientation="cells-by-genes")
    pd.testing.assert_frame_equal(found, TABLE, check_dtype=False)
    turned = read(tmp_path / "a.csv", orientation="genes-by-cells")
    assert list(turned.index) == GENES


def test_genes_along_both_sides_are_asked_for(tmp_path):
    TABLE.set_axis(GENES[:3]).to_csv(tmp_path / "a.csv")
    with pytest.raises(InputError, match="3 known genes"):
        read(tmp_path / "a.csv")


def test_annotations_among_the_numbers_are_refused(tmp_path):
    TABLE.assign(cluster="B", donor="d1").to_csv(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"2 columns that are not numbers \(cluster, donor\)"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b",CD3D,NKG7\n", b"\x00\xff\xfe" * 50, b'"a,b\nc"d",e']
)
def test_what_is_no_table_is_one_line(tmp_path, content):
    for name, data in (("a.csv", content), ("a.csv.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_truncated_gz_is_one_line(tmp_path):
    TABLE.to_csv(tmp_path / "a.csv.gz")
    data = (tmp_path / "a.csv.gz").read_bytes()
    (tmp_path / "a.csv.gz").write_bytes(data[:-12])
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "a.csv.gz")
