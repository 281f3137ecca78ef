from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anndata as ad
import click
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.io import mmwrite

from scbignn_infer import Annotator, __version__, annotate
from scbignn_infer.annotation.provenance import Genes, Matrix, Params, Provenance
from scbignn_infer.cli import main
from scbignn_infer.cli.options import as_bytes
from scbignn_infer.cli.train import TRAINING_MODULES
from scbignn_infer.model import registry
from scbignn_infer.output import atomic, slots
from scbignn_infer.query.readers import anndata_files

COMMANDS = (
    "annotate",
    "consensus",
    "doctor",
    "evaluate",
    "example",
    "explain",
    "inspect",
    "models",
    "report",
    "serve",
    "train",
)


@pytest.fixture(scope="session")
def run_json(run):
    return lambda *arguments, code=0: json.loads(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def query(example, tmp_path):
    """Return a copy of the example in a folder of its own."""
    folder = tmp_path / "cells"
    folder.mkdir()
    return shutil.copy(example, folder / "pbmc.h5ad")


@pytest.fixture
def toy_models(toy, monkeypatch):
    monkeypatch.setenv(registry.MODEL_PATH_VARIABLE, str(toy.parent))
    return toy


# --- help, version, errors -----------------------------------------------------------------------


def test_help_is_quick_and_imports_nothing_heavy(start):
    first = """
        import atexit, sys, time
        heavy = {"numpy", "scipy", "pandas", "anndata", "h5py", "onnxruntime", "rich", "torch"}
        before = time.process_time()
        @atexit.register
        def tell():
            print(sorted(heavy & set(sys.modules)), time.process_time() - before, file=sys.stderr)
    """
    out, err = start("--help", first=first).communicate()
    modules, seconds = err.rsplit(maxsplit=1)
    assert modules == "[]"
    assert "Usage:" in out
    assert float(seconds) < 0.5  # of the processor; 0.05 on an idle machine


def test_version(run):
    assert run("--version").stdout.strip().endswith(__version__)


def test_every_command_has_help_without_a_cut(run):
    assert tuple(sorted(main.commands)) == COMMANDS
    text = run("-h").stdout
    assert "..." not in text.split("Commands:")[1]
    for name in COMMANDS[:-1]:
        assert run(name, "--help").stdout == run(name, "-h").stdout


def test_errors_of_usage_end_with_2(run, tmp_path):
    run("annotate", code=2)
    run("anotate", code=2)
    run("annotate", "a.h5ad", "--threads", "0", code=2)
    run("annotate", "a.h5ad", "--seed", "-1", code=2)
    run("evaluate", "a.h5ad", code=2)


@pytest.mark.parametrize("command", [["annotate"], ["inspect"], ["evaluate", "--truth", "x"]])
def test_no_file_is_one_line(run, command, tmp_path):
    done = run(*command, tmp_path / "absent.h5ad", code=1)
    assert "no file" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("key", ["", "a/b"])
def test_a_key_that_h5ad_cannot_hold_is_refused(run, key):
    assert "slash" in run("annotate", "a.h5ad", "--key-added", key, code=2).stderr


# --- annotate ------------------------------------------------------------------------------------


def test_annotate_writes_every_slot_beside_the_input(run, query, pbmc_bundle):
    before = query.read_bytes()
    done = run("annotate", query, "-m", "human-pbmc", "--threads", "2")
    assert done.stdout == ""
    assert query.read_bytes() == before
    result = ad.read_h5ad(query.with_name("pbmc.scbignn.h5ad"))
    for slot, names in slots.slot_names("scbignn").items():
        graph = {n for n in names if slot == "obsp" or n.endswith("_neighbors")}
        asked = {f"scbignn_{n}" for n in ("cell_type_set", "mixture", "mixture_score")}
        asked |= {"X_scbignn_umap"}  # of settings, and of a report
        assert set(names) - graph - asked <= set(getattr(result, slot))
        assert not graph & set(getattr(result, slot))
    labels = result.obs["scbignn_cell_type"]
    joins = [node.label for node in pbmc_bundle.spec.ontology]
    assert labels.isin([*pbmc_bundle.cell_types, *joins, "unknown"]).all()
    assert labels.nunique() >= 4
    assert result.obsm["scbignn_probabilities"].shape == (700, len(pbmc_bundle.cell_types))
    assert sorted(p.name for p in query.parent.iterdir()) == ["pbmc.h5ad", "pbmc.scbignn.h5ad"]

    summary = done.stderr
    assert f"human-pbmc {pbmc_bundle.spec.version}" in summary
    assert "700" in summary
    assert "X: log-normalised counts of 765 selected genes" in summary
    assert "pbmc.scbignn.h5ad" in summary
    for label, n in labels.value_counts().items():
        assert any(
            {label, str(n)} <= {c.strip() for c in line.split("  ") if c}
            for line in summary.splitlines()
        )


def test_annotate_json_says_the_same_as_the_file(run_json, query):
    summary = run_json("annotate", query, "-m", "human-pbmc")
    result = ad.read_h5ad(summary["output"])
    assert summary["cells"] == 700
    assert summary["labels"] == result.obs["scbignn_cell_type"].value_counts().to_dict()
    assert summary["unknown"] == summary["labels"].get("unknown", 0)
    assert summary["model"] == result.uns["scbignn"]["model"]
    assert summary["genes"]["coverage"] == pytest.approx(result.uns["scbignn"]["genes"]["coverage"])
    assert summary["reference_distance"] is None
    assert summary["seconds"] > 0
    assert {"inspect", "gene level", "graph", "cell level"} <= set(summary["stages"])
    assert sum(summary["stages"].values()) <= summary["seconds"]


def test_annotate_gives_what_the_api_gives(run, query):
    run("annotate", query, "-m", "human-pbmc", "--threads", "1", "-q")
    written = ad.read_h5ad(query.with_name("pbmc.scbignn.h5ad"))
    adata = ad.read_h5ad(query)
    with pytest.warns(UserWarning, match="of the genes"):
        annotate(adata, "human-pbmc", threads=1)
    pd.testing.assert_frame_equal(written.obs, adata.obs)
    np.testing.assert_array_equal(written.obsm["X_scbignn"], adata.obsm["X_scbignn"])


def test_without_a_model_annotate_says_which_was_chosen_and_why(run, run_json, query):
    done = run("annotate", query)
    assert "human-pbmc" in done.stderr
    assert "distance to the references" in done.stderr
    assert "human-pbmc" in run_json("annotate", query, "--overwrite")["reference_distance"]


def test_quiet_says_nothing(run, query):
    done = run("annotate", query, "-m", "human-pbmc", "--quiet")
    assert done.output == ""


def test_a_model_adapted_to_a_query_says_so_everywhere(run, run_json, query, pbmc_bundle, tmp_path):
    """And one that is not says nothing of it."""
    line = "model was adapted to: a.h5ad, b.h5ad (transductive; not a held-out result)"
    folder = shutil.copytree(pbmc_bundle.path, tmp_path / "adapted")
    spec = json.loads((folder / "bundle.json").read_text())
    spec["training"]["datasets"] += [
        {"file": f"{name}.h5ad", "n_cells": 7, "role": "adapted"} for name in "ab"
    ]
    (folder / "bundle.json").write_text(json.dumps(spec))
    for model, said in ((folder, line), ("human-pbmc", "")):
        done = run("annotate", query, "-m", model, "--overwrite")
        shown = run("models", "show", model).stdout
        for text in (done.stderr, shown):
            assert [s for s in text.splitlines() if "model was adapted" in s] == [said] * bool(said)
        summary = run_json("annotate", query, "-m", model, "--overwrite")
        assert summary["adaptation"] == said
        assert ad.read_h5ad(summary["output"]).uns["scbignn"]["adaptation"] == said
    roles = [d["role"] for d in run_json("models", "show", folder)["training"]["datasets"]]
    assert roles[-2:] == ["adapted", "adapted"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_annotate_writes_tables(run, query, suffix):
    path = query.with_suffix(suffix)
    run("annotate", query, "-m", "human-pbmc", "-o", path, "--key-added", "k")
    if suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, index_col=0, sep="\t" if suffix == ".tsv" else ",")
    assert len(table) == 700
    assert {"k_cell_type", "k_confidence", "probability_B"} <= set(table)


def test_low_coverage_is_a_warning(run_json, query):
    warnings = run_json("annotate", query, "-m", "human-pbmc")["warnings"]
    coverage = run_json("inspect", query, "-m", "human-pbmc")["models"][0]["coverage"]
    assert bool(warnings) == (coverage < 0.4)
    if warnings:
        assert f"{coverage:.0%}" in warnings[0]


def test_an_existing_output_is_refused_before_any_work(run, query, monkeypatch):
    output = query.with_name("out.csv")
    output.write_text("old")
    monkeypatch.setattr(Annotator, "annotate_query", None)
    assert "exists" in run("annotate", query, "-m", "human-pbmc", "-o", output, code=1).stderr
    assert output.read_text() == "old"


def test_an_existing_output_is_replaced_with_leave(run, query):
    output = query.with_name("out.csv")
    output.write_text("old")
    run("annotate", query, "-m", "human-pbmc", "-o", output, "--overwrite")
    assert len(pd.read_csv(output)) == 700


def test_the_input_is_no_output_unless_in_place(run, query):
    before = query.read_bytes()
    link = query.with_name("link.h5ad")
    link.symlink_to(query)
    for output in (query, link):
        done = run("annotate", query, "-m", "human-pbmc", "-o", output, "--overwrite", code=1)
        assert "is the input" in done.stderr
    assert query.read_bytes() == before


def test_in_place_refuses_another_output(run, query):
    run("annotate", query, "--in-place", "-o", query.with_name("out.h5ad"), code=2)


def test_in_place_and_the_slots_of_an_earlier_run(run, query):
    run("annotate", query, "-m", "human-pbmc", "--in-place")
    assert "scbignn" in ad.read_h5ad(query, backed="r").uns
    done = run("annotate", query, "-m", "human-pbmc", "--in-place", code=1)
    assert "obs['scbignn_cell_type']" in done.stderr
    run("annotate", query, "-m", "human-pbmc", "--in-place", "--overwrite")
    run("annotate", query, "-m", "human-pbmc", "--in-place", "--key-added", "other")
    assert {"scbignn", "other"} <= set(ad.read_h5ad(query, backed="r").uns)
    assert [p.name for p in query.parent.iterdir()] == ["pbmc.h5ad"]


def test_much_that_is_unknown_is_said(run_json, query):
    summary = run_json("annotate", query, "-m", "human-pancreas")
    assert summary["unknown"] > 350
    assert any("best_cell_type" in warning for warning in summary["warnings"])
    assert not any(
        "best_cell_type" in w
        for w in run_json("annotate", query, "-m", "human-pbmc", "--overwrite")["warnings"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-m", "absent"], "no model named 'absent'"),
        (["-m", "./nowhere/absent"], "no model bundle at"),
        (["-m", "./absent"], "no model bundle at"),
        (["--matrix", "layers/absent"], "no matrix 'layers/absent'"),
        (["--gene-column", "absent"], "no gene column 'absent'"),
        (["--device", "tpu"], "device 'tpu'"),
        (["-o", "out.txt"], "output 'out.txt'"),
        (["-o", "."], "output '.'"),
        (["-o", f"{'x' * 206}.h5ad"], "an output whose name has 211 bytes"),
        (["-o", "nowhere/out.csv"], "no folder nowhere"),
    ],
)
def test_wrong_choices_are_one_line(run, query, options, message):
    if "-m" not in options:
        options = ["-m", "human-pbmc", *options]
    assert message in run("annotate", query, *options, code=1).stderr
    assert [p.name for p in query.parent.iterdir()] == ["pbmc.h5ad"]


def test_no_gene_in_common_is_one_line(run, h5ad):
    error = run("annotate", h5ad, "-m", "human-pbmc", code=1).stderr
    assert "the genes have no names: they are called GENE0, GENE1, GENE2" in error


def test_a_tampered_model_is_one_line(run, query, pbmc_bundle, tmp_path):
    model = shutil.copytree(pbmc_bundle.path, tmp_path / "tampered")
    data = bytearray((model / "gene_level.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (model / "gene_level.onnx").write_bytes(data)
    assert "gene_level.onnx was altered" in run("annotate", query, "-m", model, code=1).stderr


# --- other formats -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "tsv.gz", "zarr", "mtx", "h5", "loom", "old h5ad"])
def test_any_format_is_labelled_alike_and_becomes_a_whole_h5ad(
    run, run_json, query, tmp_path, write_as, form
):
    adata = ad.read_h5ad(query)[::10].copy()
    adata.X.sort_indices()
    (tmp_path / "in").mkdir()
    path = write_as(adata, tmp_path / "in" / "cells", form)
    plain = write_as(adata, tmp_path / "plain", "h5ad")
    summary = run_json("annotate", path, "-m", "human-pbmc")
    expected = ad.read_h5ad(run_json("annotate", plain, "-m", "human-pbmc")["output"])
    assert summary["output"].endswith("cells.scbignn.h5ad")
    result = ad.read_h5ad(summary["output"])
    labels = result.obs["scbignn_cell_type"].astype(str).tolist()
    assert labels == expected.obs["scbignn_cell_type"].astype(str).tolist()
    assert list(result.obs_names) == list(adata.obs_names)
    assert list(result.var_names) == list(adata.var_names)
    np.testing.assert_allclose(result.X.toarray(), adata.X.toarray(), rtol=1e-5)
    table = tmp_path / "labels.csv"
    run("annotate", path, "-m", "human-pbmc", "-o", table)
    assert pd.read_csv(table, keep_default_na=False)["scbignn_cell_type"].tolist() == labels
    assert "leave out --in-place" in run("annotate", path, "--in-place", code=1).stderr
    assert run_json("inspect", path, "-m", "human-pbmc")["models"][0]["fits"]


def test_a_table_with_names_that_tell_nothing_asks_for_its_orientation(run, tmp_path):
    path = tmp_path / "a.csv"
    pd.DataFrame(np.ones((3, 4)), list("abc"), list("wxyz")).to_csv(path)
    assert "--orientation" in run("annotate", path, "-m", "human-pbmc", code=1).stderr
    done = run("annotate", path, "-m", "human-pbmc", "--orientation", "cells-by-genes", code=1)
    assert "share 0 of" in done.stderr


def test_options_of_reading_reach_the_work(run, run_json, start, query, tmp_path):
    adata = ad.read_h5ad(query)
    adata = adata[:, [n for n in adata.var_names if "orf" not in n]].copy()
    adata.obs["sample"] = np.arange(700) % 2
    adata.var_names = adata.var_names.str.capitalize()  # as in mouse
    adata.write_h5ad(tmp_path / "q.h5ad")
    start = ["annotate", tmp_path / "q.h5ad", "-m", "human-pbmc", "-o", tmp_path / "o.csv"]
    assert "are of mouse" in run(*start, code=1).stderr
    allowed = [*start, "--allow-species-mismatch", "--overwrite"]
    summary = run_json(*allowed, "--batch-key", "sample", "--batch-cells", "64")
    assert (summary["params"]["batch_key"], summary["params"]["n_batches"]) == ("sample", 2)
    assert "coverage" in run(*allowed, "--min-gene-coverage", "0.9", code=1).stderr
    assert "no obs['donor']" in run(*allowed, "--batch-key", "donor", code=1).stderr
    assert "memory limit" in run(*allowed, "--memory-limit", "100MB", code=1).stderr
    run(*allowed, "--memory-limit", "much", code=2)
    run(*allowed, "--min-gene-coverage", "2", code=2)


@pytest.mark.parametrize(
    ("size", "bytes_"),
    [("1000", 1000), ("2K", 2000), ("2kb", 2000), ("1.5GB", 1_500_000_000), ("3 t", 3 * 10**12)],
)
def test_sizes_are_in_powers_of_a_thousand(size, bytes_):
    assert as_bytes(size) == bytes_


def test_long_work_is_announced(run, query, monkeypatch):
    monkeypatch.setattr(sys.modules["scbignn_infer.cli.annotate"], "LONG_SECONDS", 0.0)
    done = run("annotate", query, "-m", "human-pbmc", "-o", query.with_suffix(".csv"))
    assert "700 cells will take about" in done.stderr
    assert "GB of memory" in done.stderr
    done = run("annotate", query, "-m", "human-pbmc", "-q", "--overwrite")
    assert done.output == ""


# --- interruptions -------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_an_interrupted_write_leaves_nothing(start, query, name, code):
    first = """
        import os, time
        def copy_a_byte(old, new, size):
            if size == os.fstat(old).st_size:
                print("writing", flush=True)
            time.sleep(0.01)
            return os.write(new, os.read(old, 1))
        os.copy_file_range = copy_a_byte
    """
    process = start("annotate", query, "-m", "human-pbmc", first=first)
    assert process.stdout.readline() == "writing\n"
    assert len(list(query.parent.iterdir())) == 2
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in err
    assert [p.name for p in query.parent.iterdir()] == ["pbmc.h5ad"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_nohup_outlives_its_terminal(start):
    first = """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        from scbignn_infer.model import registry
        plain = registry.list_models
        registry.list_models = lambda: signal.raise_signal(signal.SIGHUP) or plain()
    """
    process = start("models", "list", "--json", first=first)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "human-pbmc" in out


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_that_a_library_calls_an_error_is_a_signal(start, name, code):
    """A module that is interrupted while it is loaded may say that it cannot be loaded."""
    first = f"""
        from scbignn_infer.model import registry
        from scbignn_infer.errors import DeviceError
        def load():
            try:
                signal.raise_signal(signal.{name})
            except BaseException:
                raise DeviceError("not loaded", expected="it", do="install it") from None
        registry.list_models = load
    """
    process = start("models", "list", first=first)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == code


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_that_comes_while_python_cleans_up_is_not_lost(start, query, name, code):
    """Python prints what a weak reference's callback raises, and goes on."""
    first = f"""
        import time, weakref
        from scbignn_infer.output import atomic
        class Dead: pass
        def check(target, **rules):
            dead = Dead()
            reference = weakref.ref(dead, lambda _: signal.raise_signal(signal.{name}))
            del dead
            print("went on", flush=True)
            time.sleep(60)
        atomic.check_output = check
    """
    process = start("annotate", query, "-m", "human-pbmc", first=first)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "went on\n")
    assert "Traceback" not in err
    assert [p.name for p in query.parent.iterdir()] == ["pbmc.h5ad"]


# --- outputs -------------------------------------------------------------------------------------


def commands(folder):
    """Return commands that write a page or a table, and its name."""
    labelled = folder / "labelled.h5ad"
    truth = ["--truth", "truth", "--map", folder / "map.json"]
    return {
        "annotate": ["annotate", labelled, "-m", "human-pbmc", "--key-added", "b", "-o", "o.csv"],
        "report": ["annotate", labelled, "-m", "human-pbmc", "-o", "p.csv", "--report", "o.html"],
        "evaluate": ["evaluate", labelled, *truth, "-o", "o.html"],
        "explain": ["models", "explain", "human-pbmc", "-o", "o.tsv"],
        "explain cells": ["explain", labelled, "--cells", "x", "-o", "o.html"],
        "example": ["example", "-o", "."],
    }


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("name", commands(Path()))
def test_no_command_replaces_a_pipe_or_its_input(run, labelled, name, monkeypatch):
    monkeypatch.chdir(labelled.parent)
    Path("map.json").write_text("{}")
    command = commands(labelled.parent)[name]
    output = Path("pbmc700.h5ad" if name == "example" else command[-1])
    os.mkfifo(output)
    assert "is a pipe" in run(*command, "--overwrite", code=1).stderr
    assert output.is_fifo()
    output.unlink()
    for source in ("labelled.h5ad", "map.json") if name == "evaluate" else ("labelled.h5ad",):
        if name in ("explain", "example"):
            break  # they read no file of the user
        before = Path(source).read_bytes()
        for make in (output.symlink_to, output.hardlink_to):
            make(source)
            assert "is the input" in run(*command, "--overwrite", code=1).stderr
            output.unlink()
        assert Path(source).read_bytes() == before


@pytest.mark.parametrize("name", ["evaluate", "explain", "example"])
def test_no_command_replaces_what_came_while_it_worked(run, labelled, name, monkeypatch):
    monkeypatch.chdir(labelled.parent)
    Path("map.json").write_text("{}")
    command = commands(labelled.parent)[name]
    output = Path("pbmc700.h5ad" if name == "example" else command[-1])
    plain = atomic.drafting

    def drafting(target, **how):
        Path(target).write_text("another's")
        return plain(target, **how)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "drafting", drafting)
        assert "exists" in run(*command, code=1).stderr
    assert output.read_text() == "another's"
    run(*command, "--overwrite")
    assert output.stat().st_size > 1000


def test_output_and_report_are_two_files(run, query, monkeypatch):
    monkeypatch.chdir(query.parent)
    Path("o.csv").symlink_to("r.html")
    done = run("annotate", "pbmc.h5ad", "-o", "o.csv", "--report", "r.html", code=1)
    assert "are the same file" in done.stderr


def test_want_of_memory_names_its_place(run, query, monkeypatch):
    def fail(*arguments, **keywords):
        raise OSError("Can't read data (memory allocation failed for raw data chunk)")

    monkeypatch.setattr(anndata_files.RowStored, "__getitem__", fail)
    done = run("annotate", query, "-m", "human-pbmc", "-o", query.with_suffix(".csv"), code=1)
    assert "the memory ran out" in done.stderr
    assert "pbmc.h5ad" in done.stderr
    assert [p.name for p in query.parent.iterdir()] == ["pbmc.h5ad"]


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("options", [["models", "list"], ["models", "list", "--json"]])
def test_a_closed_pipe_is_quiet(start, options):
    process = start(*options, first="import sys; sys.stdin.read()", stdin=subprocess.PIPE)
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait(timeout=30)


# --- inspect -------------------------------------------------------------------------------------


def test_inspect_judges_every_matrix(run_json, h5ad, toy_models):
    report = run_json("inspect", h5ad, "-m", "toy")
    states = {m["name"]: (m["state"], m["genes"]) for m in report["matrices"]}
    assert states == {
        "X": ("counts", 30),
        "layers/log1p": ("log1p-cut", 30),
        "raw": ("counts", 40),
    }
    assert (report["cells"], report["matrix"], report["problem"]) == (20, "raw", "")
    assert all(m["reason"] for m in report["matrices"])


def test_inspect_names_the_rivals_that_are_passed_over(run, run_json, adata, tmp_path, toy_models):
    adata.layers["ambiguous"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "a.h5ad")
    report = run_json("inspect", tmp_path / "a.h5ad", "-m", "toy")
    over = {m["name"]: m["passed_over"] for m in report["matrices"] if m["passed_over"]}
    assert over == {"layers/ambiguous": "'ambiguous' holds a part of the counts"}
    shown = " ".join(run("inspect", tmp_path / "a.h5ad", "-m", "toy").stdout.split())
    assert "passed over: 'ambiguous' holds a part" in shown


def test_inspect_says_that_no_model_fits_and_ends_well(run, run_json, h5ad, toy_models):
    (model,) = run_json("inspect", h5ad, "-m", "toy")["models"]
    assert (model["fits"], model["shared_genes"], model["coverage"]) == (False, 0, 0)
    assert "the genes have no names" in model["reason"]
    assert "No model fits this file." in run("inspect", h5ad, "-m", "toy").stdout


def test_inspect_finds_the_column_that_fits(run_json, adata, tmp_path, toy_models):
    adata.var["symbol"] = ["CD3D", "MS4A1"] + [f"x{i}" for i in range(28)]
    adata.write_h5ad(tmp_path / "a.h5ad")
    (model,) = run_json("inspect", tmp_path / "a.h5ad", "-m", "toy")["models"]
    assert (model["fits"], model["gene_column"], model["shared_genes"]) == (True, "symbol", 2)
    assert model["coverage"] == 1


def test_inspect_looks_at_every_model_and_a_damaged_one_hides_none(
    run, run_json, query, toy_models
):
    (toy_models / "reference.npz").write_bytes(b"")
    models = {m["name"]: m for m in run_json("inspect", query)["models"]}
    assert {"human-pbmc", "human-pancreas", "toy"} <= set(models)
    assert "reference.npz was altered" in models["toy"]["reason"]
    assert models["human-pbmc"]["fits"]
    assert "human-pbmc" in run("inspect", query).stdout


def test_inspect_without_a_usable_matrix_ends_well(run_json, adata, tmp_path, toy_models):
    scaled = ad.AnnData(adata.X.toarray() - 1, var=adata.var)
    scaled.write_h5ad(tmp_path / "a.h5ad")
    report = run_json("inspect", tmp_path / "a.h5ad", "-m", "toy")
    assert report["matrix"] is None
    assert "X is scaled" in report["problem"]
    assert report["models"][0]["fits"] is False


def test_inspect_of_a_broken_file_or_model_fails(run, h5ad, tmp_path, toy_models):
    run("inspect", h5ad, "-m", "absent", code=1)
    h5ad.write_bytes(h5ad.read_bytes()[:3000])
    run("inspect", h5ad, code=1)


# --- models --------------------------------------------------------------------------------------


def test_models_list(run, run_json, toy_models):
    entries = {e["name"]: e for e in run_json("models", "list")["models"]}
    assert entries["toy"]["path"] == str(toy_models)
    assert entries["toy"]["cell_types"] == ["B", "T [naive]"]
    assert entries["toy"]["version"] == "1.2.3"
    assert {"human-pbmc", "human-pancreas"} <= set(entries)
    text = run("models", "list").stdout
    assert all(name in text for name in entries)


def test_models_show_is_the_card(run, run_json, toy_models):
    assert (
        "training cells  10,916, 1,296 of them simulated, seed 0"
        in run("models", "show", "human-pbmc").stdout
    )
    text = run("models", "show", "toy").stdout
    for part in ("T [naive]", "CL:0000084", "Toy 2020", "0.900", "out of fold macro-F1", "0.5"):
        assert part in text
    for part in ("0.777", "0.666", "1,234", "0.555", "B as T [naive] 44%", "one from the other"):
        assert part in text
    for part in ("not read", "beyond --max-cells (54,321)"):
        assert part in text
    card = run_json("models", "show", "toy")
    assert card["n_genes"] == 3
    assert card["training"]["em_history"][0]["kept"] is True


def test_models_show_an_unknown_one(run, toy_models):
    assert "no model named" in run("models", "show", "absent", code=1).stderr


def test_models_verify(run, run_json, toy_models):
    assert run("models", "verify", "toy").stdout.startswith("ok     toy: 4 files")
    run("models", "verify")
    (toy_models / "cell_level.onnx").write_bytes(b"other")
    done = run("models", "verify", "toy", "human-pbmc", code=1)
    assert "FAILED toy" in done.stdout
    assert "ok     human-pbmc" in done.stdout
    bad, good = run_json("models", "verify", "toy", "human-pbmc", code=1)["models"]
    assert "cell_level.onnx was altered" in bad["problem"]
    assert good["problem"] == ""


def test_models_verify_checks_more_than_checksums(run, run_json, change, toy_models):
    """Tables that cannot be used have right checksums, and listing models does not read them."""
    change(tables=lambda t: t.update(gene_scale=np.zeros(3)) if "gene_scale" in t else None)
    assert run_json("models", "list")["models"]
    done = run("models", "verify", "toy", "human-pbmc", code=1)
    assert "FAILED toy" in done.stdout
    assert "statistics.npz: gene_scale holds 0" in done.stdout
    assert "ok     human-pbmc" in done.stdout


def test_a_model_in_the_working_folder_is_named_by_a_path(run, toy, monkeypatch):
    monkeypatch.chdir(toy.parent)
    for command in (["models", "show"], ["models", "verify"], ["models", "explain"]):
        failed = run(*command, "toy", code=1)
        assert "no model named 'toy'" in failed.stderr
        assert "to use the folder, write ./toy" in failed.stderr
    assert "ok     ./toy" in run("models", "verify", "./toy").stdout
    assert "T [naive]" in run("models", "show", "./toy").stdout


@pytest.mark.parametrize("broken", ["record", "tables"])
@pytest.mark.parametrize("form", ["h5ad", "csv"])
def test_a_broken_model_is_named_and_passed_over(
    run, query, toy_models, change, tmp_path, broken, form
):
    if broken == "record":
        (toy_models / "bundle.json").write_text("{}")
    else:
        change(tables=lambda t: t.update(gene_scale=np.zeros(3)) if "gene_scale" in t else None)
    if form == "csv":
        cells = ad.read_h5ad(query)[:50]
        query = tmp_path / "cells.csv"
        cells.to_df().to_csv(query)
    done = run("annotate", query, "-o", tmp_path / "out.csv", "--threads", "1", "--json")
    assert json.loads(done.stdout)["model"]["name"] == "human-pbmc"
    (line,) = [line for line in done.stderr.splitlines() if "passed over" in line]
    assert line.startswith(f"warning: the model toy is passed over: {toy_models}: ")
    again = ["annotate", query, "-o", tmp_path / "b.csv", "-m", "toy"]
    failed = run(*again, code=1, lines=None)
    assert failed.stderr.splitlines()[-1].startswith(f"error: {toy_models}: ")
    assert not (tmp_path / "b.csv").exists()


def test_models_list_shows_a_broken_model_as_broken(run, run_json, toy_models):
    (toy_models / "bundle.json").write_text("{}")
    done = run("models", "list")
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("toy ")]
    assert row.split()[1] == "broken"
    assert done.stderr.startswith("warning: toy is broken: ")
    assert len(done.stderr.splitlines()) == 1
    entries = {e["name"]: e for e in run_json("models", "list")["models"]}
    assert "bundle.json is not a bundle record" in entries["toy"]["problem"]
    assert entries["human-pbmc"]["problem"] == ""


def test_models_verify_without_a_model_fails(run, monkeypatch):
    monkeypatch.setattr(registry, "list_models", dict)
    assert "no model was found" in run("models", "verify", code=1).stderr
    assert run("models", "list").stdout.startswith("No model in")


# --- doctor --------------------------------------------------------------------------------------


def test_doctor_reports_and_fails_on_a_problem(run, run_json, monkeypatch):
    monkeypatch.setattr("scbignn_infer.doctor.cuda_driver_loads", lambda: False)
    assert run_json("doctor")["problems"] == []
    assert "Nothing to repair." in run("doctor").stdout
    both = {"onnxruntime": "1", "onnxruntime-gpu": "1"}
    monkeypatch.setattr("scbignn_infer.doctor.installed_packages", lambda: both)
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in run("doctor", code=1).stdout
    assert len(run_json("doctor", code=1)["problems"]) == 1


# --- evaluate ------------------------------------------------------------------------------------


@pytest.fixture
def labelled(adata, tmp_path):
    """Return a file as annotate leaves it: truth is B, T, odd or missing, five cells each."""
    best = np.array(["B", "B", "T", "T"] * 5, dtype=object)
    final = best.copy()
    final[:2] = "unknown"
    adata.obs["scbignn_best_cell_type"] = pd.Categorical(best)
    adata.obs["scbignn_cell_type"] = pd.Categorical(final)
    adata.obs["scbignn_confidence"] = np.linspace(0.4, 1, 20, dtype=np.float32)
    adata.obs["other"] = pd.Categorical(["B", "x", "T", "T"] * 5)
    adata.uns["scbignn"] = {"cell_types": ["B", "T", "NK"]}
    adata.write_h5ad(tmp_path / "labelled.h5ad")
    return tmp_path / "labelled.h5ad"


def test_evaluate_scores_the_cells_that_the_model_knows(run, run_json, labelled):
    scores = run_json("evaluate", labelled, "--truth", "truth")
    assert (scores["n_cells"], scores["left_out"]) == (10, {"": 5, "odd": 5})
    assert scores["accuracy"] == 0.5
    assert scores["unknown_share"] == pytest.approx(0.2)
    assert scores["called_accuracy"] == 0.5
    assert scores["labels"] == ["B", "T"]
    assert scores["confusion"] == [[5, 0], [5, 0]]
    text = run("evaluate", labelled, "--truth", "truth").stdout
    assert "(none) 5" in text
    assert "odd 5" in text
    assert "macro-F1" in text


def test_evaluate_renames_the_truth(run_json, labelled, tmp_path):
    (tmp_path / "map.json").write_text(json.dumps({"odd": "T"}))
    scores = run_json("evaluate", labelled, "--truth", "truth", "--map", tmp_path / "map.json")
    assert (scores["n_cells"], scores["left_out"]) == (15, {"": 5})
    assert scores["accuracy"] == pytest.approx(10 / 15)


def test_evaluate_knows_names_by_what_they_mean(run, run_json, labelled, tmp_path):
    cells = ad.read_h5ad(labelled)
    names = {"B": "B cells", "T": "t-cell", "odd": "odd"}
    cells.obs["says"] = cells.obs["truth"].map(names)
    cells.write_h5ad(labelled)
    scores = run_json("evaluate", labelled, "--truth", "says")
    assert scores["n_cells"] == 10
    said = "labels of --truth were read by what they mean: 'B cells' as B, 't-cell' as T"
    assert said in scores["warnings"][0]
    assert said in run("evaluate", labelled, "--truth", "says").stderr
    (tmp_path / "map.json").write_text(json.dumps({"B cells": "none of these", "t-cell": "B"}))
    mapped = run_json("evaluate", labelled, "--truth", "says", "--map", tmp_path / "map.json")
    assert (mapped["n_cells"], mapped["left_out"]["none of these"]) == (5, 5)


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', "\ufeff{", None])
def test_a_map_that_is_none_is_refused(run, labelled, tmp_path, text):
    path = tmp_path / "map.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    done = run("evaluate", labelled, "--truth", "truth", "--map", path, code=1)
    assert "cannot use the map" in done.stderr


def test_evaluate_needs_labels(run, h5ad, labelled):
    done = run("evaluate", h5ad, "--truth", "truth", code=1)
    assert "run scbignn-infer annotate first" in done.stderr
    run("evaluate", labelled, "--truth", "truth", "--key-added", "other", code=1)


def test_evaluate_without_the_truth_names_the_columns(run, labelled):
    assert "truth, n" in run("evaluate", labelled, "--truth", "absent", code=1).stderr


def test_evaluate_where_no_label_is_known(run, labelled):
    assert "--map" in run("evaluate", labelled, "--truth", "n", code=1).stderr


def test_evaluate_scores_what_annotate_wrote(run, run_json, query):
    run("annotate", query, "-m", "human-pbmc", "-q")
    annotated = query.with_name("pbmc.scbignn.h5ad")
    written = run_json("evaluate", annotated, "--truth", "scbignn_best_cell_type")
    assert written["accuracy"] == 1
    done = run("evaluate", query, "--truth", "bulk_labels", "-m", "human-pbmc", code=2)
    assert "first write: scbignn-infer annotate FILE -m MODEL" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("record", "warns"),
    [
        ({"training_cells": 12, "model": {"name": "mine"}}, True),
        ({"training_cells": 0, "model": {"name": "mine"}}, False),
        ({"training_cells": "many", "model": {"name": "mine"}}, False),
        ({"training_cells": 12}, False),
        ({"training_cells": 12, "model": "mine"}, False),
        ({}, False),
    ],
)
def test_evaluate_says_that_the_cells_trained_the_model(run, run_json, labelled, record, warns):
    adata = ad.read_h5ad(labelled)
    adata.uns["scbignn"].update(record)
    adata.write_h5ad(labelled)
    done = run("evaluate", labelled, "--truth", "truth")
    said = "mine was trained on at least 12 of these cells"
    assert (said in done.stderr) == warns
    assert bool(done.stderr) == warns
    assert [said in w for w in run_json("evaluate", labelled, "--truth", "truth")["warnings"]] == (
        [True] * warns
    )
    page = labelled.with_name("p.html")
    run("evaluate", labelled, "--truth", "truth", "-o", page)
    assert (said in page.read_text()) == warns


def test_cells_that_trained_a_shipped_model_are_known_again(run, run_json, real_data, tmp_path):
    """Also in a file of a few of them, of log-values and with the genes in another order."""
    whole = ad.read_h5ad(real_data("pbmc3k_seurat.h5ad"))
    rng = np.random.default_rng(0)
    few = whole[rng.choice(whole.n_obs, 40, replace=False), rng.permutation(whole.n_vars)].copy()
    counts = few.X.toarray().astype(np.float64)
    few.X = np.log1p(counts * 1e4 / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    few.write_h5ad(tmp_path / "few.h5ad")
    options = ["-m", "human-pbmc", "-o", tmp_path / "o.h5ad"]
    (warning,) = run_json("annotate", tmp_path / "few.h5ad", *options)["warnings"]
    assert warning.startswith("human-pbmc was trained on at least ")
    assert (
        "was trained on at least"
        in run("evaluate", tmp_path / "o.h5ad", "--truth", "cell_type_common").stderr
    )
    other = real_data("liver_aizarani_2019.h5ad")
    found = run_json("annotate", other, "-m", "human-pbmc", "-o", tmp_path / "p.h5ad")
    assert not [w for w in found["warnings"] if "trained on at least" in w]


@pytest.mark.parametrize(
    ("model", "file", "least"),
    [
        ("human-body", "pbmc_kang_ifnb.h5ad", 10),
        ("mouse-body", "mouse_tabula_muris_facs_organs.h5ad", 100),
        ("human-body", "liver_aizarani_2019.h5ad", 0),
    ],
)
def test_a_body_knows_its_cells_although_its_data_sets_have_other_genes(
    run_json, real_data, tmp_path, model, file, least
):
    path = real_data(file)
    found = run_json("annotate", path, "-m", model, "-o", tmp_path / "p.h5ad")
    said = [w for w in found["warnings"] if "trained on at least" in w]
    assert len(said) == bool(least)
    assert not said or int(re.search(r"at least (\d+)", said[0])[1]) >= least


def test_evaluate_against_another_labelling(run, run_json, labelled, tmp_path):
    (tmp_path / "map.json").write_text('{"x": "B"}')
    found = run_json(
        "evaluate",
        labelled,
        "--truth",
        "truth",
        "--against",
        "other",
        "--map",
        tmp_path / "map.json",
    )["against"]
    assert found["key"] == "other"
    assert found["agreement"]["share"] == 1
    plain = run_json("evaluate", labelled, "--truth", "truth", "--against", "other")["against"]
    assert plain["agreement"]["n_cells"] == 20
    assert plain["agreement"]["share"] == 0.75
    assert plain["agreement"]["pairs"] == [["B", "x", 5]]
    assert plain["scores"]["accuracy"] == 0.5
    text = run("evaluate", labelled, "--truth", "truth", "--against", "other").stdout
    assert "75.0% of 20 cells have the same label" in text
    assert "calibration error" in text
    done = run("evaluate", labelled, "--truth", "truth", "--against", "absent", code=1)
    assert "--against" in done.stderr


# --- example and train ---------------------------------------------------------------------------


def test_the_example_is_copied_and_the_next_command_works(run, tmp_path, monkeypatch, example):
    monkeypatch.chdir(tmp_path)
    text = run("example").stdout
    assert (tmp_path / "pbmc700.h5ad").read_bytes() == example.read_bytes()
    command = text.splitlines()[-1].split()
    assert command[0] == "scbignn-infer"
    run(*command[1:])
    assert (tmp_path / "pbmc700.scbignn.h5ad").exists()


def test_the_example_overwrites_only_with_leave(run, tmp_path):
    (tmp_path / "pbmc700.h5ad").write_text("mine")
    assert "exists" in run("example", "-o", tmp_path, code=1).stderr
    assert (tmp_path / "pbmc700.h5ad").read_text() == "mine"
    run("example", "-o", tmp_path, "--overwrite")
    assert (tmp_path / "pbmc700.h5ad").stat().st_size > 10_000


def test_the_example_needs_a_folder(run, tmp_path):
    assert "no folder" in run("example", "-o", tmp_path / "absent", code=1).stderr


@pytest.mark.parametrize("module", TRAINING_MODULES)
def test_train_without_its_extra_is_one_line(run, monkeypatch, module):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else True)
    done = run("train", "--help", code=1)
    assert f"'{module}'" in done.stderr
    assert "'onnx>=" in done.stderr


def test_train_hands_its_arguments_on(run, monkeypatch):
    pytest.importorskip("torch")
    import scbignn_training.cli

    @click.command(context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def train(ctx, arguments):
        click.echo(" ".join(arguments))
        ctx.exit(3 if "--fail" in arguments else 0)

    monkeypatch.setattr(scbignn_training.cli, "train", train)
    given = ["a.h5ad", "--label-key", "cell type", "-o", "out", "b.h5ad"]
    assert run("train", *given).stdout == " ".join(given) + "\n"
    run("train", "--fail", code=3)


def test_train_has_its_own_help_and_usage_errors(run):
    pytest.importorskip("torch")
    assert "scbignn-infer train" in run("train", "--help").stdout
    run("train", "--no-such-option", code=2)


def test_explain_labels_as_annotate_does(run, run_json, query):
    """What is explained are the labels that the same options write."""
    options = ["-m", "human-pbmc", "--level", "1", "--no-unknown", "--graph", "reference"]
    run("annotate", query, *options, "-q")
    labels = ad.read_h5ad(query.with_name("pbmc.scbignn.h5ad")).obs["scbignn_cell_type"]
    cells = [labels.index[i] for i in (0, 9)]
    found = run_json("explain", query, "--cells", ",".join(cells), *options)["cells"]
    assert [c["label"] for c in found] == [labels[c] for c in cells]
    wrong = run("explain", query, "--cells", cells[0], *options, "--matrix", "raw", code=1)
    assert "raw" in wrong.stderr


def test_options_that_would_do_nothing_are_refused(run, query):
    done = run("annotate", query, "--no-unknown", "--max-novelty", "0.9", code=2)
    assert "--max-novelty: --no-unknown calls no cell unknown" in done.stderr


def test_novel_cells_can_be_called_unknown(run, query):
    run("annotate", query, "-m", "human-pbmc", "-q", "--max-novelty", "0.6")
    run("annotate", query, "-m", "human-pbmc", "-q", "-o", query.with_name("usual.h5ad"))
    strict, usual = (
        ad.read_h5ad(query.with_name(name)) for name in ("pbmc.scbignn.h5ad", "usual.h5ad")
    )
    novel = usual.obs["scbignn_novelty"] > 0.6
    assert 0 < novel.mean() < 1
    expected = usual.obs["scbignn_cell_type"].astype(str).where(~novel, "unknown")
    assert strict.obs["scbignn_cell_type"].astype(str).tolist() == expected.tolist()
    assert strict.uns["scbignn"]["params"]["max_novelty"] == 0.6


def test_the_working_folder_is_labelled_beside_it(run, query, tmp_path, monkeypatch):
    whole = ad.read_h5ad(query)
    sample = tmp_path / "sample one"
    (sample / "inner").mkdir(parents=True)
    mmwrite(sample / "matrix.mtx", sp.coo_matrix(whole.X.T))
    for name, lines in (("genes.tsv", whole.var_names), ("barcodes.tsv", whole.obs_names)):
        (sample / name).write_text("\n".join(lines) + "\n")
    for where, path in ((sample, "."), (sample / "inner", "..")):
        monkeypatch.chdir(where)
        run("annotate", path, "-m", "human-pbmc", "-q", "--overwrite")
        written = tmp_path / "sample one.scbignn.h5ad"
        assert ad.read_h5ad(written).n_obs == whole.n_obs
        written.unlink()
        assert "holds no labels of a model" in run("report", path, code=1).stderr


def test_what_to_do_next_is_said(run, query, tmp_path):
    """By commands that work as they stand; and not to programs."""
    start = ["annotate", query, "-m", "human-pbmc", "--overwrite"]
    said = run(*start).stderr.splitlines()
    _, _, command = said[-2].partition("to see the cells on a map: ")
    assert "report" in run(*shlex.split(command)[1:]).output
    _, _, command = said[-1].partition("to see what the unknown cells are: ")
    words = shlex.split(command)
    assert words[0] == "scbignn-infer"
    assert "unknown because" in run(*words[1:]).stdout
    table = run(*start, "-o", tmp_path / "labels.csv").stderr.splitlines()
    assert table[-2] == "next     to see the cells on a map, add --report report.html"
    *_, line = run(*start, "--no-unknown").stderr.splitlines()
    _, _, command = line.partition("to see the genes behind each label: ")
    assert "its cells show" in run(*shlex.split(command)[1:]).stdout
    *_, line = run(*start, "--depth", "leaf", "--matrix", "X", "--no-unknown").stderr.splitlines()
    assert line.endswith(" -m human-pbmc --matrix X --no-unknown --depth leaf"), line
    assert "its cells show" in run(*shlex.split(line.partition(": ")[2])[1:]).stdout
    said = run(*start, "--key-added", "my labels").stderr.splitlines()
    _, _, command = said[-2].partition("to see the cells on a map: ")
    assert "report" in run(*shlex.split(command)[1:], "--overwrite").output
    assert "next" not in run(*start, "--quiet").output
    assert "next" not in run(*start, "--json").stderr


@pytest.mark.parametrize(
    ("matrix", "genes", "words"),
    [
        (
            Matrix("X", "counts", "whole numbers up to 9"),
            Genes(),
            "X: counts (whole numbers up to 9)",
        ),
        (Matrix("raw", "log1p", "expm1 sums to 10000"), Genes(), "raw: log-normalised counts"),
        (
            Matrix("X", "log1p-cut", "expm1"),
            Genes(n_genes=757),
            "X: log-normalised counts of 757 selected genes",
        ),
        (
            Matrix("X", "log1p-cut", "expm1"),
            Genes(n_genes=20_000),
            "X: log-normalised counts without a common total",
        ),
    ],
)
def test_a_matrix_is_said_in_words(matrix, genes, words):
    assert Provenance(matrix=matrix, genes=genes).matrix_said == words


def test_genes_and_graphs_are_said_in_words():
    genes = Genes("index", 764, 0.26, n_genes=765)
    assert genes.said == (
        "764 of the file's 765 genes match the model's, by the index of var; that is 26% of the "
        "genes that matter to the model"
    )
    genes = Genes("symbol", 9, 1.0, 2, 3, {"protein": 4})
    assert genes.said.startswith(
        "9 match the model's, by the column 'symbol' of var (3 by another name; 2 duplicates "
        "summed; left out: 4 protein); that is 100%"
    )
    params = Params(n_neighbors=15, graph="query", graph_builder="exact")
    assert params.said == "1 graph of all cells; 15 neighbours for each cell, search: exact"
    params = Params(n_neighbors=15, graph="query", graph_builder="ivf", batch_key="s", n_batches=2)
    assert params.said.startswith("2 graphs, one for each value of 's'; 15 neighbours")
    params = Params(n_neighbors=15, graph="reference")
    assert params.said == "15 neighbours for each cell, cells of the model's reference"
