from __future__ import annotations

import re
import signal
import subprocess

import anndata as ad
import pytest
import torch

import scbignn_infer
import scbignn_training.cli
import scbignn_training.pack
import scbignn_training.train
from scbignn_infer.errors import InputError


@pytest.fixture(autouse=True)
def threads():
    """Set the threads back that the command has taken."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_work(monkeypatch):
    """Fail if anything is read or trained."""

    def fail(*arguments):
        pytest.fail("there must be no work")

    monkeypatch.setattr(scbignn_training.train, "train", fail)


@pytest.fixture
def recipe_file(recipe, tmp_path):
    path = tmp_path / "tiny.toml"
    strengths = recipe.settings.as_record()
    for pair in ("blend", "shield"):
        del strengths[pair]
    lines = [
        f"name = '{recipe.name}'",
        f"label_key = '{recipe.label_key}'",
        f"min_cells = {recipe.min_cells}",
        f"reference = [{{ file = '{recipe.reference[0].file}' }}]",
        f"unlabelled = [{{ file = '{recipe.unlabelled[0].file}' }}]",
        "[settings]",
        *(f"{name} = {value!r}" for name, value in strengths.items()),
    ]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def given(parts):
    """Return options that name everything."""
    return parts["labelled"], "--label-key", "cell_type", "--name", "mine"


def test_a_recipe_becomes_a_bundle(run, recipe_file, tmp_path, bundle):
    torch.set_num_threads(2)
    done = run("train", "--recipe", recipe_file, "-o", tmp_path / "out", "--threads", 1)
    assert torch.get_num_threads() == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    head = lines.index("iteration  gene level  with cell level  seconds")
    table = [line for line in lines[head + 1 :] if not line.startswith("[")]
    assert [int(line.split()[0]) for line in table] == [0, 1, 2]
    assert {len(line) for line in [lines[head], *table]} == {len(lines[head])}
    found = scbignn_infer.load_model(tmp_path / "out" / "tiny")
    history = found.spec.training.em_history
    for line, row in zip(table, history, strict=True):
        scores = [float(v) for v in line.split()[1:3]]
        assert scores == pytest.approx([row.gene_level_f1, row.cell_level_f1], abs=5e-5)
    stages = [line for line in lines if line.startswith("[")]
    assert all(re.match(r"\[ *\d+\.\d s\] \S", line) for line in stages)
    assert "reading" in stages[0]
    assert "out_of_fold_macro_f1" in stages[-1]
    # It is the model that the same recipe made before.
    assert found.read("statistics.npz") == (bundle / "statistics.npz").read_bytes()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["tiny"]  # no checkpoint is left


def test_a_killed_run_goes_on_with_the_same_command(
    run, start, until, recipe_file, tmp_path, bundle
):
    """Killed without warning after some stages; those are not done again."""
    out = tmp_path / "out"
    command = ["train", "--recipe", recipe_file, "-o", out, "--threads", "1"]
    process = start(*command, stderr=subprocess.DEVNULL)
    unfinished = out / ".tiny.checkpoint"
    until(lambda: len(list(unfinished.glob("*.pt"))) >= 3 or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "tiny").exists()
    kept = list(unfinished.glob("split-1-of-1-fold-*.pt"))
    assert kept
    done = run(*command)
    assert "training split 1 of 1, fold 1 of 2" not in done.stderr
    assert "split 1 of 1, fold 1 of 2: taken from the unfinished run" in done.stderr
    assert not unfinished.exists()
    for name in ("gene_level.onnx", "cell_level.onnx", "statistics.npz", "reference.npz"):
        assert (out / "tiny" / name).read_bytes() == (bundle / name).read_bytes(), name


def test_a_killed_run_on_a_sample_of_an_atlas_goes_on(
    run, start, until, recipe_file, parts, tmp_path
):
    """Of many studies in one file: the same bytes as of a run that was never killed."""
    adata = ad.read_h5ad(parts["labelled"])
    adata.obs["donor"] = [f"d{i % 3}" for i in range(adata.n_obs)]
    adata.write_h5ad(tmp_path / "atlas.h5ad")
    recipe = recipe_file.read_text().replace(
        f"{{ file = '{parts['labelled']}' }}",
        f"{{ file = '{tmp_path / 'atlas.h5ad'}', study_key = ['donor'] }}",
    )
    lines = [line for line in recipe.splitlines() if not line.startswith("unlabelled")]
    recipe_file.write_text("\n".join(["max_cells = 150", *lines]))
    command = ["train", "--recipe", recipe_file, "--threads", "1", "-o"]
    run(*command, tmp_path / "whole")
    out = tmp_path / "out"
    process = start(*command, out, stderr=subprocess.DEVNULL)
    stages = out / ".tiny.checkpoint"
    until(lambda: list(stages.glob("split-2-of-3-*.pt")) or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = run(*command, out)
    assert "split 1 of 3, fold 1 of 2: taken from the unfinished run" in done.stderr
    assert "training split 1 of 3" not in done.stderr
    for name in ("gene_level.onnx", "cell_level.onnx", "statistics.npz", "reference.npz"):
        assert (out / "tiny" / name).read_bytes() == (tmp_path / "whole/tiny" / name).read_bytes()
    spec = scbignn_infer.load_model(out / "tiny").spec
    assert spec.training.not_read == {"beyond --max-cells": adata.n_obs - 150}


def test_kept_stages_calibrate_again_without_training(run, recipe_file, tmp_path):
    command = ["train", "--recipe", recipe_file, "-o", tmp_path, "--threads", "1"]
    run(*command, "--keep-stages")
    bundle = tmp_path / "tiny"
    first = {p.name: p.read_bytes() for p in bundle.iterdir() if p.suffix in {".onnx", ".npz"}}
    stages = len(list((tmp_path / ".tiny.checkpoint").glob("*.pt")))
    again = run(*command, "--overwrite")
    assert again.stderr.count("taken from the unfinished run") >= stages > 3
    assert {name: (bundle / name).read_bytes() for name in first} == first
    assert not (tmp_path / ".tiny.checkpoint").exists()


def test_fresh_starts_anew(run, recipe_file, tmp_path, monkeypatch):
    unfinished = tmp_path / ".tiny.checkpoint"
    unfinished.mkdir()
    (unfinished / "stage.pt").write_bytes(b"")
    there = []

    def train(recipe, run):
        there.append(run.folder.exists())
        raise InputError("stop", expected="", do="")

    monkeypatch.setattr(scbignn_training.train, "train", train)
    run("train", "--recipe", recipe_file, "-o", tmp_path, "--threads", 1, code=1)
    run("train", "--recipe", recipe_file, "-o", tmp_path, "--threads", 1, "--fresh", code=1)
    assert there == [True, False]


class TestAdapting:
    """A model for one query, trained with the query's own cells among the unlabelled."""

    LINE = "model was adapted to: query.h5ad (transductive; not a held-out result)"

    @pytest.fixture
    def query(self, parts, tmp_path):
        """Return the unlabelled cells of the session's model, with labels that are all wrong."""
        adata = ad.read_h5ad(parts["unlabelled"])
        adata.obs["cell_type"] = "alpha"
        adata.write_h5ad(tmp_path / "query.h5ad")
        return tmp_path / "query.h5ad"

    def test_from_the_query_to_its_labels(
        self, run, given, query, bundle, settings, monkeypatch, tmp_path
    ):
        monkeypatch.setattr(scbignn_training.cli, "Settings", lambda seed: settings)
        monkeypatch.setenv("SCBIGNN_MODEL_PATH", str(tmp_path / "models"))
        run(
            "train",
            *(*given, "--min-cells", 8, "--adapt", query),
            *("-o", tmp_path / "models", "--threads", 1, "--quiet"),
        )
        found = scbignn_infer.load_model("mine")
        for name in found.spec.files:  # but for the name, those of --unlabelled
            assert found.read(name).replace(b"mine", b"tiny") == (bundle / name).read_bytes(), name
        assert [(d.file, d.role) for d in found.spec.training.datasets] == [
            ("labelled.h5ad", "reference"),
            ("query.h5ad", "adapted"),
        ]
        assert found.spec.training.n_cells == found.spec.training.datasets[0].n_cells
        card = (tmp_path / "models" / "mine" / "README.md").read_text()
        assert "Adapted to query.h5ad: its accuracy on those cells is transductive." in card

        done = run("annotate", query, "-m", "mine")
        assert self.LINE in done.stderr.splitlines()
        record = ad.read_h5ad(query.with_name("query.scbignn.h5ad")).uns["scbignn"]
        assert record["adaptation"] == self.LINE

    def test_other_unlabelled_cells_are_no_adaptation(self, run, bundle):
        done = run("models", "show", bundle)
        assert "adapted" not in done.stdout
        assert scbignn_infer.load_model(bundle).spec.training.adaptation == ""


class TestOptions:
    @pytest.fixture
    def made(self, run, monkeypatch, tmp_path, model):
        """Catch the recipe that the options make, without its work."""
        recipes = []

        def train(recipe, run):
            assert run.device == "cpu"
            assert run.folder.name == f".{recipe.name}.checkpoint"
            recipes.append(recipe)
            run.say("working")
            for row in model.history:
                run.iteration(row)
            return model

        def write(model, recipe, folder, *, overwrite):
            path = folder / recipe.name
            path.mkdir(parents=True)
            return path

        monkeypatch.setattr(scbignn_training.train, "train", train)
        monkeypatch.setattr(scbignn_training.pack, "write_bundle", write)
        monkeypatch.chdir(tmp_path)
        return recipes

    def test_options_make_a_recipe(self, run, given, made, parts):
        run(
            "train",
            *given,
            parts["query"],
            *("--unlabelled", parts["unlabelled"], "--species", "mouse"),
            *("--adapt", "one.h5ad", "--adapt", "two.h5ad"),
            *("--tissue", "lung", "--min-cells", 5, "--seed", 3, "--threads", 1),
            *("--study-key", "donor", "--study-key", "batch", "--max-cells-per-type", 50),
            *(
                "--max-cells",
                5000,
                "--keep-label",
                "doublet",
                "--citation",
                "Doe 2026",
                "--licence",
                "CC0",
            ),
            *("--description", "Lungs."),
        )
        (recipe,) = made
        assert (recipe.name, recipe.label_key, recipe.species) == ("mine", "cell_type", "mouse")
        assert [s.file for s in recipe.reference] == [str(parts["labelled"]), str(parts["query"])]
        assert [s.file for s in recipe.unlabelled] == [str(parts["unlabelled"])]
        assert [s.file for s in recipe.adapt] == ["one.h5ad", "two.h5ad"]
        assert (recipe.tissue, recipe.min_cells, recipe.settings.seed) == ("lung", 5, 3)
        assert [s.study_key for s in recipe.reference] == [["donor", "batch"]] * 2
        assert [(s.citation, s.licence) for s in recipe.reference] == [("Doe 2026", "CC0")] * 2
        assert (recipe.max_cells_per_type, recipe.keep) == (50, ["doublet"])
        assert (recipe.description, recipe.licence) == ("Lungs.", "CC0")
        assert recipe.max_cells == 5000

    def test_references_of_one_stem_are_numbered(self, run, made):
        files = ("one/cells.h5ad", "two/cells.h5ad", "other.h5ad")
        run("train", *files, *("--label-key", "cell_type", "--name", "mine", "--threads", 1))
        assert [s.called for s in made[0].reference] == ["cells 1", "cells 2", "other"]

    def test_a_reference_of_a_recipe_is_left_out(self, run, made, recipe_file, parts):
        text = recipe_file.read_text()
        files = ("query", "labelled", "unlabelled")
        three = ", ".join(f"{{ file = '{parts[name]}' }}" for name in files)
        recipe_file.write_text(text.replace(f"[{{ file = '{parts['labelled']}' }}]", f"[{three}]"))
        left_out = ("--leave-out", "query", "--leave-out", "unlabelled")
        for n, rest in ((2, ["labelled", "unlabelled"]), (4, ["labelled"])):
            run("train", "--recipe", recipe_file, *left_out[:n], "--threads", 1)
            assert [s.called for s in made[-1].reference] == rest
        assert [r.name for r in made] == [
            "tiny-without-query",
            "tiny-without-query-without-unlabelled",
        ]

    @pytest.mark.usefixtures("made")
    def test_quiet_prints_nothing(self, run, given):
        assert run("train", *given, "--quiet", "--threads", 1).output == ""

    @pytest.mark.usefixtures("made")
    def test_not_quiet_prints_to_stderr_alone(self, run, given):
        done = run("train", *given, "--threads", 1)
        assert done.stdout == ""
        assert "working" in done.stderr


@pytest.mark.usefixtures("no_work")
class TestBadInput:
    @pytest.mark.parametrize("missing", [0, 3])
    def test_an_option_is_missing(self, run, given, missing):
        width = 1 if missing == 0 else 2
        arguments = [*given[:missing], *given[missing + width :]]
        assert "Usage:" in run("train", *arguments, code=2).stderr

    @pytest.mark.parametrize(
        "extra",
        [
            ("--label-key", "x"),
            ("--name", "x"),
            ("--unlabelled", "x.h5ad"),
            ("--adapt", "x.h5ad"),
            ("--seed", "0"),
            ("--min-cells", "10"),
            ("--species", "mouse"),
            ("--tissue", "lung"),
            ("cells.h5ad",),
        ],
    )
    def test_a_recipe_says_itself_what_options_say(self, run, recipe_file, extra):
        name = extra[0].removeprefix("--").replace("-", "_").replace("cells.h5ad", "references")
        assert name in run("train", "--recipe", recipe_file, *extra, code=2).stderr

    @pytest.mark.parametrize(
        "wrong",
        [
            ("--threads", 0),
            ("--min-cells", 1),
            ("--seed", -1),
            ("--seed", "one"),
            ("--no-such-option",),
            ("--device", "tpu"),
        ],
    )
    def test_wrong_values(self, run, given, wrong):
        assert wrong[0] in run("train", *given, *wrong, code=2).stderr

    @pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "/abs", "a/"])
    def test_a_name_is_no_path(self, run, parts, name, tmp_path):
        done = run(
            "train",
            *(parts["labelled"], "--label-key", "cell_type", "--name", name),
            *("-o", tmp_path / "out", "--overwrite"),
            code=1,
        )
        assert f"'{name}'" in done.stderr
        assert "--name" in done.stderr
        assert not (tmp_path / "out").exists()

    def test_a_gpu_that_is_not_there(self, run, given, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        done = run("train", *given, "-o", tmp_path, "--device", "cuda", code=1)
        assert "no CUDA device" in done.stderr
        assert "--device cpu" in done.stderr

    def test_the_output_exists(self, run, given, tmp_path):
        (tmp_path / "mine").mkdir()
        done = run("train", *given, "-o", tmp_path, code=1)
        assert f"{tmp_path / 'mine'} exists" in done.stderr
        assert "--overwrite" in done.stderr

    def test_the_output_folder_is_a_file(self, run, given, tmp_path):
        (tmp_path / "out").write_text("")
        assert "cannot write" in run("train", *given, "-o", tmp_path / "out", code=1).stderr

    def test_only_a_reference_of_a_recipe_can_be_left_out(self, run, given, recipe_file):
        assert "--recipe" in run("train", *given, "--leave-out", "labelled", code=2).stderr
        wrong = run("train", "--recipe", recipe_file, "--leave-out", "x", code=1).stderr
        assert "expected one of labelled" in wrong
        only = run("train", "--recipe", recipe_file, "--leave-out", "labelled", code=1).stderr
        assert "only reference" in only

    def test_no_recipe(self, run, tmp_path):
        assert "none.toml" in run("train", "--recipe", tmp_path / "none.toml", code=1).stderr


class TestBadReferences:
    """What is found out once the files are read; stages have been told by then."""

    @pytest.fixture
    def last_line(self, run):
        return lambda *arguments: run("train", *arguments, "--quiet", code=1).stderr

    def test_no_file(self, last_line, tmp_path):
        line = last_line(tmp_path / "no.h5ad", "--label-key", "t", "--name", "x")
        assert "no file" in line

    def test_no_label_column(self, last_line, parts):
        line = last_line(parts["labelled"], "--label-key", "celltype", "--name", "x")
        assert "no obs['celltype']" in line
        assert "--label-key" in line

    def test_no_label_key_and_no_schema(self, last_line, parts):
        line = last_line(parts["labelled"], "--name", "x")
        assert "CELLxGENE" in line
        assert "--label-key" in line

    def test_no_h5ad(self, last_line, recipe_file):
        line = last_line(recipe_file, "--label-key", "t", "--name", "x")
        assert "not an HDF5 file" in line

    def test_genes_of_another_species(self, last_line, given):
        line = last_line(*given, "--species", "mouse")
        assert "labelled.h5ad are those of human" in line
        assert "--species" in line

    def test_too_few_cells_of_each_type(self, last_line, given):
        assert "--min-cells" in last_line(*given, "--min-cells", 1000)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(run, flag):
    done = run("train", flag)
    assert done.stdout.startswith("Usage: scbignn-infer train")
    assert "--unlabelled" in done.stdout
