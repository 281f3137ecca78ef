from __future__ import annotations

import errno
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import anndata as ad
import msgspec
import numpy as np
import onnx
import pytest
import torch
from scipy.special import softmax

import scbignn_infer
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import BundleError, OutputError
from scbignn_infer.model import onnx_graph
from scbignn_infer.model.bundle import StudyScores
from scbignn_infer.query.gene_names import GeneNames
from scbignn_infer.query.readers import open_query
from scbignn_training import pack
from scbignn_training.data import Origin
from scbignn_training.pack import check_free, write_bundle
from scbignn_training.profile_types import ProfileType
from scbignn_training.recipe import Source
from scbignn_training.train import HeldOut, train

FILES = {
    "README.md",
    "bundle.json",
    "cell_level.onnx",
    "gene_level.onnx",
    "reference.npz",
    "statistics.npz",
}

PLACES = [("lung", "adult"), ("liver", "fetal")]


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def everything(folder):
    """Return every path below a folder, hidden ones too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def exported(bundle, monkeypatch):
    """Spare the export: the graphs are those of the session's bundle."""
    for level in ("gene_level", "cell_level"):
        graph = (bundle / f"{level}.onnx").read_bytes()
        monkeypatch.setattr(pack, f"export_{level}", lambda *_, graph=graph: graph)
    monkeypatch.setattr(pack, "check_parity", lambda *_: {})


class TestTheBundle:
    def test_the_runtime_reads_it(self, bundle, model):
        loaded = scbignn_infer.load_model(bundle)
        assert loaded.cell_types == model.reference.cell_types
        assert loaded.gene_symbols == model.reference.symbols
        assert set(contents(bundle)) == FILES
        assert bundle.name == "tiny"
        assert bundle.stat().st_mode & 0o777 == 0o755

    @pytest.mark.parametrize("level", ["gene level", "cell level"])
    def test_the_graphs_tell_what_they_are(self, bundle, recipe, level):
        """Whoever has the file alone can read what goes in and comes out, in which unit."""
        graph = onnx.load(bundle / f"{level.replace(' ', '_')}.onnx")
        onnx.checker.check_model(graph, full_check=True)
        about = {p.key: p.value for p in graph.metadata_props}
        assert len(about) == len(graph.metadata_props)
        assert (about["model"], about["model_version"]) == (recipe.name, recipe.version)
        assert about["bundle_format"] == "2"
        told = json.loads(about["inputs"]), json.loads(about["outputs"])
        inputs, outputs = onnx_graph.LEVELS[level]
        assert [set(t) for t in told] == [set(inputs), set(outputs)]
        for values, texts in zip((graph.graph.input, graph.graph.output), told, strict=True):
            assert {v.name: v.doc_string for v in values} == texts
            for value in values:
                shape = value.type.tensor_type.shape.dim
                named = re.findall(r"\(([^()]*)\)", value.doc_string)[-1:]
                assert [len(shape)] == [len(n.split(",")) for n in named or [""]] or not shape

    def test_the_record_tells_what_the_model_was_made_from(self, bundle, model, recipe):
        spec = scbignn_infer.load_model(bundle).spec
        assert (spec.name, spec.species, spec.tissue) == ("tiny", "human", "pancreas")
        reference, unlabelled = spec.training.datasets
        assert (reference.file, reference.role) == ("labelled.h5ad", "reference")
        assert reference.citation == "Baron et al. 2016"
        assert reference.n_cells == len(model.reference.codes)
        assert (unlabelled.role, unlabelled.n_cells) == ("unlabelled", model.n_unlabelled[0])
        assert sum(spec.training.cells_per_type.values()) == reference.n_cells
        assert spec.training.n_cells == reference.n_cells
        assert spec.training.validation == "one of 2 folds of the cells"
        assert spec.training.scores == model.scores
        assert spec.training.em_history == model.history
        assert spec.training.confusions == model.confusions
        assert spec.training.held_out_scores == {}
        assert (reference.name, unlabelled.name) == ("labelled", "unlabelled")
        assert spec.training.settings == recipe.settings.as_record()
        assert {c.label: c.ontology_id for c in spec.cell_types}["alpha"] == "CL:0000171"
        assert {c.label: c.ontology_id for c in spec.cell_types}["beta"] == ""
        assert spec.gene_level.net_genes == 200
        assert spec.preprocessing.panel_genes == 300
        assert len(spec.cell_level.layers) == 2
        assert spec.created_with["torch"] == torch.__version__
        assert spec.created_with["threads"] == "1"  # sums depend on it
        assert spec.created_with["device"] == "cpu"
        assert (bundle / "README.md").read_text().startswith("# tiny 1\n")

    def test_the_tables_are_those_that_torch_computed_with(self, bundle, model):
        shipped = scbignn_infer.load_model(bundle).statistics
        for name, value in model.pair.gene.statistics.items():
            np.testing.assert_array_equal(shipped[name], value, err_msg=name)
        np.testing.assert_allclose(shipped["gene_share"].sum(), 1.0, rtol=1e-5)
        np.testing.assert_allclose(shipped["gene_share"], model.reference.gene_share, rtol=1e-5)
        bank = scbignn_infer.load_model(bundle).reference
        np.testing.assert_allclose(bank["embedding"], model.bank, atol=1e-3)
        np.testing.assert_array_equal(bank["codes"], model.bank_codes)

    def test_nothing_is_pickled(self, bundle):
        for name in ("statistics.npz", "reference.npz"):
            with np.load(bundle / name, allow_pickle=False) as arrays:
                assert all(a.dtype.kind in "fi" for a in arrays.values())


class TestRoundTrip:
    @pytest.fixture(scope="class")
    @classmethod
    def query(cls, parts):
        return ad.read_h5ad(parts["query"])

    @pytest.fixture(scope="class")
    @classmethod
    def annotation(cls, bundle, query):
        annotator = Annotator.load(bundle, device="cpu", threads=1)
        return annotator.annotate_matrix(query.X, query.var_names)

    def test_cells_never_seen_get_the_labels_of_the_torch_pair(
        self, annotation, model, query, settings, torch_says
    ):
        graph, logits = torch_says(model, query, settings)
        expected = np.array(model.reference.cell_types)[logits.argmax(axis=1)]
        assert annotation.best_labels.tolist() == expected.tolist()
        temperature = annotation.provenance.params.temperature
        np.testing.assert_allclose(
            annotation.probabilities, softmax(logits / temperature, axis=1), atol=1e-3
        )
        np.testing.assert_allclose(annotation.embedding, graph.embedding, atol=1e-3)
        gene_level = graph.gene_logits.numpy().argmax(axis=1)
        assert annotation.gene_level_codes.tolist() == gene_level.tolist()

    def test_they_are_right_far_more_often_than_the_largest_type(self, annotation, query):
        truth = query.obs["cell_type"].astype(str).to_numpy()
        largest = query.obs["cell_type"].value_counts(normalize=True).max()
        assert largest < 0.5
        assert (annotation.best_labels == truth).mean() > 0.9
        known = annotation.labels != "unknown"
        assert known.mean() > 0.8
        assert (annotation.labels == truth)[known].mean() > 0.9

    def test_half_of_the_genes_are_enough(self, bundle, query):
        """Genes are imputed from the shipped tables; the library is scaled up."""
        cut = query[:, ::2]
        found = Annotator.load(bundle, device="cpu", threads=1).annotate_matrix(
            cut.X, cut.var_names
        )
        truth = query.obs["cell_type"].astype(str).to_numpy()
        assert (found.best_labels == truth).mean() > 0.85


def test_a_seed_fixes_the_weights_of_a_bundle(bundle, recipe, tmp_path):
    again = contents(write_bundle(train(recipe), recipe, tmp_path))
    first = contents(bundle)
    for name in FILES - {"bundle.json", "README.md"}:
        assert again[name] == first[name], name
    records = [json.loads(d["bundle.json"]) for d in (first, again)]
    for record in records:  # only the clock may differ
        for row in record["training"]["em_history"]:
            del row["seconds"]
    assert records[0] == records[1]


@pytest.mark.usefixtures("exported")
class TestWriting:
    def test_an_existing_bundle_is_refused(self, model, recipe, tmp_path):
        (tmp_path / "tiny").mkdir()
        (tmp_path / "tiny" / "mine.txt").write_text("precious")
        with pytest.raises(OutputError, match="exists") as caught:
            write_bundle(model, recipe, tmp_path)
        assert "--overwrite" in str(caught.value)
        assert everything(tmp_path) == ["tiny", "tiny/mine.txt"]

    def test_it_is_replaced_whole_when_asked(self, model, recipe, tmp_path):
        (tmp_path / "tiny").mkdir()
        (tmp_path / "tiny" / "old.txt").write_text("old")
        path = write_bundle(model, recipe, tmp_path, overwrite=True)
        assert set(contents(path)) == FILES
        assert len(everything(tmp_path)) == 1 + len(FILES)
        scbignn_infer.load_model(path)

    def test_folders_are_made(self, model, recipe, tmp_path):
        path = write_bundle(model, recipe, tmp_path / "a" / "b")
        assert path == tmp_path / "a" / "b" / "tiny"
        scbignn_infer.load_model(path)

    @pytest.fixture
    def full_disk(self, monkeypatch):
        """Let the disk be full when the third file is written."""
        write, written = Path.write_bytes, []

        def fail(path, data):
            written.append(path.name)
            if len(written) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, data)

        monkeypatch.setattr(Path, "write_bytes", fail)

    @pytest.mark.usefixtures("full_disk")
    def test_a_full_disk_leaves_nothing(self, model, recipe, tmp_path):
        with pytest.raises(OutputError, match="No space left on device") as caught:
            write_bundle(model, recipe, tmp_path)
        assert "\n" not in str(caught.value)
        assert everything(tmp_path) == []

    def test_a_full_disk_keeps_the_old_bundle(self, model, recipe, bundle, tmp_path, request):
        path = write_bundle(model, recipe, tmp_path)
        before, paths = contents(path), everything(tmp_path)
        request.getfixturevalue("full_disk")
        with pytest.raises(OutputError):
            write_bundle(model, recipe, tmp_path, overwrite=True)
        assert contents(path) == before
        assert everything(tmp_path) == paths

    def test_the_old_bundle_returns_if_the_new_cannot_be_moved(
        self, model, recipe, tmp_path, monkeypatch
    ):
        path = write_bundle(model, recipe, tmp_path)
        before, paths = contents(path), everything(tmp_path)
        replace, moves = Path.replace, []

        def fail(source, target):
            moves.append((source.name, Path(target).name))
            if len(moves) == 2:
                raise OSError(errno.EACCES, "Permission denied")
            return replace(source, target)

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(OutputError, match="Permission denied"):
            write_bundle(model, recipe, tmp_path, overwrite=True)
        assert len(moves) == 3
        assert contents(path) == before
        assert everything(tmp_path) == paths

    def test_an_interrupt_leaves_nothing(self, model, recipe, tmp_path, monkeypatch):
        def interrupt(path, data):
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "write_bytes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_bundle(model, recipe, tmp_path)
        assert everything(tmp_path) == []

    def test_a_bundle_that_cannot_be_read_is_not_moved_into_place(
        self, model, recipe, tmp_path, monkeypatch
    ):
        write = Path.write_bytes
        monkeypatch.setattr(Path, "write_bytes", lambda path, data: write(path, data[:-1]))
        with pytest.raises(BundleError):
            write_bundle(model, recipe, tmp_path)
        assert everything(tmp_path) == []

    def test_checksums_and_sizes_are_those_of_the_files(self, model, recipe, tmp_path):
        path = write_bundle(model, recipe, tmp_path)
        listed = json.loads((path / "bundle.json").read_text())["files"]
        assert set(listed) == FILES - {"bundle.json", "README.md"}
        for name, data in contents(path).items():
            if name in listed:
                sha = hashlib.sha256(data).hexdigest()
                assert listed[name] == {"sha256": sha, "size": len(data)}

    def test_merged_and_dropped_labels_are_on_record(self, model, recipe, tmp_path):
        changed = msgspec.structs.replace(recipe, name="other", version="2", licence="CC0")
        reference = type(model.reference)(
            **{**vars(model.reference), "merged": {"a": "alpha"}, "dropped": {"odd": 3, "": 2}}
        )
        changed_model = type(model)(**{**vars(model), "reference": reference})
        path = write_bundle(changed_model, changed, tmp_path)
        training = scbignn_infer.load_model(path).spec.training
        assert training.merged_labels == {"a": "alpha"}
        assert training.dropped_labels == {"odd": 3, "": 2}
        card = (path / "README.md").read_text()
        assert "- merged: a into alpha" in card
        assert "- left out: odd (3 cells)" in card
        assert "- left out: no label that is used (2 cells)" in card


def test_a_model_knows_the_cells_that_it_was_trained_on(bundle, parts):
    annotator = Annotator.load(bundle, device="cpu", threads=1)
    found = {}
    for name, path in parts.items():
        with open_query(path) as query:
            found[name] = annotator.annotate_query(query)
    n = annotator.bundle.spec.training.n_cells
    assert {k: v.provenance.training_cells for k, v in found.items()} == {
        "labelled": n,
        "unlabelled": 0,
        "query": 0,
    }
    (said,) = found["labelled"].provenance.training_warnings()
    assert f"tiny was trained on at least {n} of these cells" in said
    assert found["query"].provenance.training_warnings() == []


@pytest.mark.usefixtures("exported")
def test_held_out_studies_bear_the_names_of_the_recipe(model, recipe, tmp_path):
    scores = StudyScores(accuracy=0.9, macro_f1=0.8, n_cells=7)
    origins = (Origin("one"), Origin("two"))
    changed = replace(
        model,
        held_out=HeldOut({1: scores}, {"alpha": 0.7}),
        reference=replace(model.reference, origins=origins),
    )
    first, second = (Source(file="x.h5ad", name=name) for name in ("one", "two"))
    changed_recipe = msgspec.structs.replace(
        recipe, reference=[first, second], cannot_tell=["much"], notes=["a twin"]
    )
    training = scbignn_infer.load_model(
        write_bundle(changed, changed_recipe, tmp_path)
    ).spec.training
    assert training.held_out_scores == {"two": scores}
    assert training.held_out_scores_per_type == {"alpha": 0.7}
    assert (training.cannot_tell, training.notes) == (["much"], ["a twin"])


def test_genes_without_an_id_take_no_place_for_it(bundle, model):
    genes = json.loads((bundle / "bundle.json").read_text())["genes"]
    known = GeneNames.of("human").gene
    assert set(model.reference.ensembl_ids) == {""}
    assert {"ensembl_id" in gene for gene in genes} == {True, False}
    for gene in genes:
        assert gene.get("ensembl_id") == known.get(gene["symbol"])


def test_a_tissue_says_on_what_it_was_tested_or_nothing():
    types = [ProfileType("T cell", "CL:0000084", t, a, "s") for t, a in PLACES]
    meant = {t.label: t for t in types}
    found = pack.tissues([*meant, "of no tissue"], meant, {"lung": "Someone: .9"})
    assert [(t.name, t.tested) for t in found] == [("fetal liver", ""), ("lung", "Someone: .9")]
    assert [(t.organ, t.fluid) for t in found] == [("liver", False), ("", False)]
    blood = ProfileType("T cell", "CL:0000084", "blood", "adult", "s")
    assert pack.tissues([blood.label], {blood.label: blood}, {})[0].fluid


def test_a_failed_parity_check_writes_nothing(model, recipe, tmp_path, monkeypatch):
    def differ(*arguments):
        raise BundleError("they differ", expected="no difference", do="report this")

    monkeypatch.setattr(pack, "export_gene_level", lambda *arguments: b"")
    monkeypatch.setattr(pack, "export_cell_level", lambda *arguments: b"")
    monkeypatch.setattr(pack, "check_parity", differ)
    with pytest.raises(BundleError, match="they differ"):
        write_bundle(model, recipe, tmp_path / "new")
    assert everything(tmp_path) == []


@pytest.mark.parametrize("limit", [40, 500])
def test_parity_is_checked_on_cells_of_the_reference(model, recipe, monkeypatch, limit):
    seen = []
    monkeypatch.setattr(pack, "PARITY_CELLS", limit)
    monkeypatch.setattr(pack, "export_gene_level", lambda level, panel: b"gene")
    monkeypatch.setattr(pack, "export_cell_level", lambda level, n: b"cell")
    monkeypatch.setattr(pack, "check_parity", lambda *arguments: seen.append(arguments))
    files = pack._files(model, recipe)
    ((graphs, panel, level, graph, cells),) = seen
    assert graphs == (b"gene", b"cell")
    assert all(files[f"{g.decode()}_level.onnx"].startswith(g) for g in graphs)
    assert level is model.pair.cell
    assert panel.level is model.pair.gene
    every = model.reference.counts[:, :600].toarray()
    row_of = {cell.tobytes(): i for i, cell in enumerate(every)}
    rows = [row_of[cell.tobytes()] for cell in cells.counts.toarray()]
    assert len(set(rows)) == len(rows) == min(limit, len(every))
    np.testing.assert_array_equal(cells.totals, model.reference.totals[rows])
    assert len(set(model.reference.codes[rows])) > 5  # a mix of types, not the first cells
    assert len(graph.gene_logits) == len(rows)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_place_of_the_folder_is_seen_before_the_work(tmp_path, overwrite):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write into") as caught:
        check_free(tmp_path / "file" / "tiny", overwrite=overwrite)
    assert "\n" not in str(caught.value)
    check_free(tmp_path / "folders" / "to" / "come" / "tiny", overwrite=overwrite)
