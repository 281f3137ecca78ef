"""Text tables: either way round, as programs write them."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.readers import open_query

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


@pytest.mark.parametrize("turned", [False, True])
def test_names_that_look_like_numbers_stay_as_they_are(tmp_path, turned):
    names = ["0001", "1e3", "NA", "12345678901234567890", "1000", "nan", "0002"]
    table = pd.DataFrame(np.eye(7, 5), index=names, columns=GENES)
    (table.T if turned else table).to_csv(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(read(tmp_path / "a.csv"), table, check_dtype=False)


def test_a_table_without_names_of_cells_keeps_its_first_gene(tmp_path):
    many = pd.DataFrame(np.tile(TABLE, (3, 1)), columns=GENES)
    many.to_csv(tmp_path / "a.csv", index=False)
    expected = many.set_axis([str(i) for i in range(9)], axis=0)
    pd.testing.assert_frame_equal(read(tmp_path / "a.csv"), expected, check_dtype=False)
    with open_query(tmp_path / "a.csv", known_genes=KNOWN) as query:
        assert query.notes == ["the first column is the gene CD3D: cells are named by their rows"]
    named = many.set_axis([str(i) for i in range(9)], axis=0).rename_axis("CD3D")
    named.to_csv(tmp_path / "b.csv")  # numbers that are names: none is there twice
    pd.testing.assert_frame_equal(read(tmp_path / "b.csv"), expected, check_dtype=False)


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


@pytest.mark.parametrize("content", ["", "\n\n", "# written by a program\n"])
def test_an_empty_table_is_called_so(tmp_path, content):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=r"t.csv \(it has no line of names\); expected a whole"):
        open_query(tmp_path / "t.csv")


def test_a_truncated_gz_is_one_line(tmp_path):
    TABLE.to_csv(tmp_path / "a.csv.gz")
    data = (tmp_path / "a.csv.gz").read_bytes()
    (tmp_path / "a.csv.gz").write_bytes(data[:-12])
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "a.csv.gz")


# --- what programs and places write --------------------------------------------------------------


def test_cells_of_cosmx_are_named_by_field_and_cell(tmp_path):
    numbers = TABLE.assign(fov=[1, 1, 2], cell_ID=[0, 7, 7])
    expected = TABLE.iloc[1:].set_axis(["1_7", "2_7"])
    for order in (["fov", "cell_ID", *GENES], ["cell_ID", "fov", *GENES]):
        numbers[order].to_csv(tmp_path / "a.csv", index=False)
        pd.testing.assert_frame_equal(read(tmp_path / "a.csv"), expected, check_dtype=False)
    numbers.to_csv(tmp_path / "b.csv")  # with numbers of rows, as R writes them
    pd.testing.assert_frame_equal(read(tmp_path / "b.csv"), expected, check_dtype=False)
    with open_query(tmp_path / "a.csv", known_genes=KNOWN) as query:
        assert query.notes == [
            "rows with the cell_ID 0 hold what lies in no cell and are left out: 1"
        ]


def test_places_of_genes_are_no_cells_and_comments_no_header(tmp_path):
    places = {"Chr": "chr1;chr1", "Start": "1;5", "End": "3;9", "Strand": "+;+", "Length": 8}
    table = pd.concat([pd.DataFrame(places, TABLE.columns), TABLE.T], axis=1)
    text = table.to_csv(sep="\t", index_label="Geneid")
    (tmp_path / "a.txt").write_text(f'# Program:featureCounts v2.0; Command:"-a" "x"\n{text}')
    pd.testing.assert_frame_equal(read(tmp_path / "a.txt"), TABLE, check_dtype=False)
    (tmp_path / "b.tsv").write_text("#" + TABLE.T.to_csv(sep="\t", index_label="gene"))
    pd.testing.assert_frame_equal(read(tmp_path / "b.tsv"), TABLE, check_dtype=False)
    extra = pd.DataFrame(9, ["__no_feature", "__not_aligned"], TABLE.index)
    pd.concat([TABLE.T, extra]).to_csv(tmp_path / "c.tsv", sep="\t")
    pd.testing.assert_frame_equal(read(tmp_path / "c.tsv"), TABLE, check_dtype=False)


@pytest.mark.parametrize("turned", [False, True])
def test_names_that_repeat_stay_as_they_are(tmp_path, turned):
    table = TABLE.set_axis(["a", "a", "c"])[["CD3D", "MS4A1", "NKG7", "CD3D"]]
    (table.T if turned else table).to_csv(tmp_path / "a.csv")
    found = read(tmp_path / "a.csv")
    assert list(found.index) == ["a", "a", "c"]
    assert list(found.columns) == ["CD3D", "MS4A1", "NKG7", "CD3D"]
    np.testing.assert_array_equal(found, table)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas(tmp_path, separator):
    text = (TABLE + 0.25).to_csv(sep=separator, decimal=",")
    (tmp_path / "a.csv").write_text(text)
    pd.testing.assert_frame_equal(read(tmp_path / "a.csv"), TABLE + 0.25, check_dtype=False)


def test_commas_that_may_part_thousands_are_refused(tmp_path):
    text = (TABLE * 2).astype(int).to_csv(sep="\t").replace("10", "12,345").replace("6", "1,234")
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(InputError, match=r"such as 1,234, whose comma may part"):
        read(tmp_path / "a.tsv")
    (tmp_path / "a.tsv").write_text(text.replace("12,345", "0,345"))
    assert read(tmp_path / "a.tsv").loc["cell a", "MS4A1"] == pytest.approx(1.234)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("turned", [False, True])
def test_encodings(tmp_path, encoding, turned):
    table = TABLE.set_axis(["Müller", "cell,b", "é"])
    (table.T if turned else table).to_csv(tmp_path / "a.csv", encoding=encoding)
    pd.testing.assert_frame_equal(read(tmp_path / "a.csv"), table, check_dtype=False)


def test_a_separator_at_the_end_of_each_line_is_no_cell(tmp_path):
    text = "".join(f"{line},\n" for line in TABLE.T.to_csv().splitlines())
    (tmp_path / "a.csv").write_text(text)
    pd.testing.assert_frame_equal(read(tmp_path / "a.csv"), TABLE, check_dtype=False)


def test_empty_lines_before_the_first_and_ends_of_lines(tmp_path):
    for text in ("\n\n" + TABLE.to_csv(), TABLE.to_csv().replace("\n", "\r")):
        (tmp_path / "a.csv").write_bytes(text.encode())
        pd.testing.assert_frame_equal(read(tmp_path / "a.csv"), TABLE, check_dtype=False)


def test_a_first_line_of_another_length_is_one_line(tmp_path):
    (tmp_path / "a.csv").write_text("a,CD3D,NKG7,MS4A1\nx,1,2\n")
    with pytest.raises(InputError, match="first line has 4 names, for 2 columns"):
        read(tmp_path / "a.csv")
