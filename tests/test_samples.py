"""Many samples: a folder of outputs, resumed after kills, on real local processes."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from distributed import Client, LocalCluster

from scbignn_infer.annotator import Annotator
from scbignn_infer.batch import cluster, overview, samples
from scbignn_infer.batch.manifest import MANIFEST, hold
from scbignn_infer.child import Child
from scbignn_infer.errors import InputError, MissingExtraError
from scbignn_infer.estimate import estimate_join
from scbignn_infer.output import elements, table
from scbignn_infer.query.readers import plain_tables
from scbignn_infer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


MODEL = ["-m", "human-pbmc", "--threads", "1"]
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",  # sockets of workers that were killed
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(scope="session")
def run(run: Any) -> Any:
    """Return a function that runs ``annotate``."""
    return functools.partial(run, "annotate")


@pytest.fixture(scope="session")
def records(run: Any) -> Any:
    """Return a function that runs ``annotate``, and gives what it tells of each sample."""

    def records(*arguments: object, code: int = 0) -> dict[str, dict[str, Any]]:
        document = json.loads(run(*arguments, "--json", code=code).stdout)
        return {r["sample"]: r for r in document["samples"]}

    return records


def written(folder: Path) -> dict[str, bytes]:
    """Return what a folder holds, its manifest and overview aside; hidden files, too."""
    beside = {MANIFEST, overview.TABLE, overview.MULTIQC, overview.INDEX}
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in beside}


def manifest_lines(folder: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a manifest, which a run may be writing."""
    path = folder / MANIFEST
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def finished(folder: Path) -> set[str]:
    return {r["sample"] for r in manifest_lines(folder) if r["status"] == "done"}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three small samples."""
    folder = tmp_path_factory.mktemp("cells")
    example = Path(samples.__file__).parents[1] / "examples" / "pbmc700.h5ad"
    adata = ad.read_h5ad(example)
    for i, rows in enumerate((slice(0, 200), slice(200, 350), slice(350, 700))):
        adata[rows].copy().write_h5ad(folder / f"s{i}.h5ad")
    return folder


@pytest.fixture(scope="module")
def serial(run: Any, cells: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return what one command a sample writes."""
    folder = tmp_path_factory.mktemp("serial")
    for i in range(3):
        run(cells / f"s{i}.h5ad", *MODEL, "-o", folder / f"s{i}.h5ad", "-q")
    return written(folder)


@pytest.fixture
def queries(cells: Path, tmp_path: Path) -> Path:
    """Return a copy of the samples that a test may change."""
    return shutil.copytree(cells, tmp_path / "queries")


class TestOneProcess:
    """Samples one after the other."""

    def test_outputs_are_those_of_single_commands(
        self, records: Any, cells: Path, serial: dict[str, bytes], tmp_path: Path
    ) -> None:
        found = records(cells / "s*.h5ad", *MODEL, "-O", tmp_path / "out")
        assert {r["status"] for r in found.values()} == {"done"}
        assert written(tmp_path / "out") == serial
        lines = manifest_lines(tmp_path / "out")
        assert [r["status"] for r in lines] == ["started"] * 3 + ["done"] * 3
        for line in lines[3:]:
            assert line == found[line["sample"]]
            assert line["input_sha256"] == samples.fingerprint(Path(line["input"]))
            assert line["output_sha256"] == samples.fingerprint(Path(line["output"]))
            assert line["params"]["provider"] == "cpu"
            assert line["seconds"] > 0
            assert sum(line["labels"].values()) == line["cells"]

    def test_only_what_has_changed_is_done_again(
        self, records: Any, queries: Path, tmp_path: Path
    ) -> None:
        start = [queries / "*.h5ad", *MODEL, "-O", tmp_path / "out"]

        def done(*more: object) -> set[str]:
            found = records(*start, *more)
            return {name for name, r in found.items() if r["status"] == "done"}

        assert done() == {"s0", "s1", "s2"}
        assert done() == set()
        (tmp_path / "out" / "s1.h5ad").write_bytes(b"half")  # the output is not whole
        assert done() == {"s1"}
        (tmp_path / "out" / "s2.h5ad").unlink()
        assert done() == {"s2"}
        shutil.copy(queries / "s1.h5ad", queries / "s0.h5ad")  # the input is another
        assert done() == {"s0"}
        assert done("--threads", "2", "--batch-cells", "100") == set()  # change no label
        assert done("--no-unknown") == {"s0", "s1", "s2"}
        assert done() == {"s0", "s1", "s2"}
        assert done("--sample-key", "cell_type") == {"s0", "s1", "s2"}
        assert done("--sample-key", "cell_type") == set()

    def test_a_failed_sample_does_not_stop_the_others(
        self, run: Any, records: Any, queries: Path, tmp_path: Path
    ) -> None:
        data = (queries / "s1.h5ad").read_bytes()
        (queries / "s1.h5ad").write_bytes(data[: len(data) // 2])
        start = [queries / "s0.h5ad", queries / "s1.h5ad", queries / "no.h5ad", queries / "s2.h5ad"]
        done = run(*start, *MODEL, "-O", tmp_path / "out", code=3)
        assert done.stderr.count("error: ") == 2
        assert "2 done, 2 failed" in done.stderr
        assert sorted(written(tmp_path / "out")) == ["s0.h5ad", "s2.h5ad"]
        quiet = run(*start, *MODEL, "-O", tmp_path / "out", "-q", code=3)
        assert [line.split(":")[1].strip() for line in quiet.stderr.splitlines()] == ["s1", "no"]
        (queries / "s1.h5ad").write_bytes(data)
        found = records(*start[:2], *MODEL, "-O", tmp_path / "out")
        assert [r["status"] for r in found.values()] == ["skipped", "done"]

    def test_a_surprise_is_a_record_too(
        self, records: Any, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Broken(samples.Job):
            def annotate(self) -> None:
                if self.query.name == "s1.h5ad":
                    raise ZeroDivisionError("of a library")
                if self.query.name == "s2.h5ad":
                    raise MemoryError
                super().annotate()

        monkeypatch.setattr(samples, "Job", Broken)
        found = records(cells / "*.h5ad", *MODEL, "-O", tmp_path / "out", code=3)
        assert found["s0"]["status"] == "done"
        assert "unexpected ZeroDivisionError: of a library" in found["s1"]["error"]
        assert "memory" in found["s2"]["error"]

    def test_a_sheet_names_samples(
        self, run: Any, records: Any, cells: Path, tmp_path: Path
    ) -> None:
        sheet = cells / "sheet.csv"
        sheet.write_text("query,name,ward\ns0.h5ad,first donor,3\ns1.h5ad,,4\n")
        found = records("--samples", sheet, *MODEL, "-O", tmp_path / "o", "--format", "csv")
        assert list(found) == ["first donor", "s1"]
        assert sorted(written(tmp_path / "o")) == ["first donor.csv", "s1.csv"]
        for text, message in (
            ("path\ns0.h5ad\n", "'query'"),
            ("query,name\n", "no samples"),
            ("query,name\ns0.h5ad,../x\n", "slash"),
            ("query,name\ns0.h5ad,x\ns1.h5ad,x\n", "both called 'x'"),
            ("query,query\ns0.h5ad,s1.h5ad\n", "two columns 'query'"),
            ("query,name\ns0.h5ad,x\0\n", "control characters"),
            ('query,name\ns0.h5ad,"x\ny"\n', "control characters"),
            ("query\ns0\0.h5ad\n", "zero byte"),
            (f"query,name\ns0.h5ad,{'x' * 191}\n", "at most 190 bytes"),
        ):
            sheet.write_text(text)
            failed = run("--samples", sheet, *MODEL, "-O", tmp_path / "p", code=1)
            assert message in failed.stderr
        assert not (tmp_path / "p").exists()

    def test_links_keep_their_own_names(self, records: Any, cells: Path, tmp_path: Path) -> None:
        """As in a store whose files are called by their contents."""
        for name in ("s0", "s1"):
            (tmp_path / "store" / name).mkdir(parents=True)
            stored = shutil.copy(cells / f"{name}.h5ad", tmp_path / "store" / name / "cells.h5ad")
            (tmp_path / f"{name}.h5ad").symlink_to(stored)
        queries = tmp_path / "s0.h5ad", tmp_path / "s1.h5ad"
        found = records(*queries, *MODEL, "-O", tmp_path / "o", "--format", "csv")
        assert list(found) == ["s0", "s1"]
        assert sorted(written(tmp_path / "o")) == ["s0.csv", "s1.csv"]

    def test_an_output_without_a_record_is_kept(
        self, records: Any, cells: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "s0.h5ad").write_bytes(b"mine")
        for _ in range(2):  # the record of the failure does not make it ours
            found = records(cells / "s0.h5ad", *MODEL, "-O", tmp_path, code=3)
            assert "exists" in found["s0"]["error"]
            assert (tmp_path / "s0.h5ad").read_bytes() == b"mine"
        assert records(cells / "s0.h5ad", *MODEL, "-O", tmp_path, "--overwrite")["s0"]["cells"]

    def test_samples_are_never_their_own_outputs(self, run: Any, queries: Path) -> None:
        before = written(queries)
        link = queries / "link"
        link.symlink_to(queries, target_is_directory=True)
        for folder in (queries, link):
            refused = run(queries / "*.h5ad", *MODEL, "-O", folder, "--overwrite", code=1)
            assert "would be a sample itself" in refused.stderr
        link.unlink()
        assert written(queries) == before

    def test_reports_stand_beside_outputs(
        self, run: Any, records: Any, cells: Path, tmp_path: Path
    ) -> None:
        start = [cells / "s1.h5ad", *MODEL, "-O", tmp_path]
        run(*start, "--reports", "-q")
        assert sorted(written(tmp_path)) == ["s1.h5ad", "s1.html"]
        (tmp_path / "s1.html").unlink()
        assert records(*start, "--reports")["s1"]["status"] == "done"

    def test_what_one_file_takes_is_not_for_many(
        self, run: Any, cells: Path, tmp_path: Path
    ) -> None:
        start = [cells / "s0.h5ad", *MODEL]
        for option in (["-o", "x.csv"], ["--in-place"], ["--report", "r.html"]):
            assert "not with -O" in run(*start, "-O", tmp_path / "o", *option, code=2).stderr
        for option in (["--workers", "2"], ["--samples", "x.csv"], ["--format", "csv"]):
            assert "pass -O" in run(*start, *option, code=2).stderr
        assert "2 files" in run(cells / "s0.h5ad", cells / "s1.h5ad", *MODEL, code=2).stderr
        no_model = run(cells / "s0.h5ad", "-O", tmp_path / "o", code=1).stderr
        assert "no model" in no_model
        assert "nothing matches" in run(cells / "z*", *MODEL, "-O", tmp_path / "o", code=1).stderr
        assert not (tmp_path / "o").exists()

    def test_a_line_that_was_cut_short_is_passed_over(
        self, run: Any, records: Any, cells: Path, tmp_path: Path
    ) -> None:
        start = [cells / "*.h5ad", *MODEL, "-O", tmp_path]
        run(*start, "-q")
        manifest = tmp_path / MANIFEST
        manifest.write_bytes(manifest.read_bytes()[:-40])
        found = records(*start)
        assert [r["status"] for r in found.values()] == ["skipped", "skipped", "done"]
        assert {r["status"] for r in records(*start).values()} == {"skipped"}

    def test_what_a_kill_left_behind_goes(self, run: Any, cells: Path, tmp_path: Path) -> None:
        """And nothing of a command that labels a single file into the folder meanwhile."""
        (tmp_path / ".s0.h5ad.run-00c0ffee.abc.tmp").write_bytes(b"half")
        (tmp_path / ".s0.h5ad.run-00c0ffee.parts").mkdir()
        (tmp_path / ".s0.h5ad.run-00c0ffee.parts" / "0.npz").write_bytes(b"half")
        (tmp_path / ".s0.h5ad.abc.tmp").write_bytes(b"of a command")
        run(cells / "s0.h5ad", *MODEL, "-O", tmp_path, "-q")
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            ".s0.h5ad.abc.tmp",
            MANIFEST,
            "s0.h5ad",
            overview.TABLE,
            overview.MULTIQC,
        ]

    def test_temporary_files_carry_the_name_of_the_run(
        self, run: Any, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that a run tells its own, also those of workers on other machines."""
        plain, seen = Annotator.annotate_query, []
        late = tmp_path / ".s1.h5ad.run-00c0ffee.abc.tmp"

        def watched(*arguments: Any, **options: Any) -> Any:
            seen.extend(p.name for p in tmp_path.glob(".*.tmp"))
            late.write_bytes(b"of a run that the lock did not keep out")
            return plain(*arguments, **options)

        monkeypatch.setattr(Annotator, "annotate_query", watched)
        run(cells / "s0.h5ad", *MODEL, "-O", tmp_path, "-q")
        (name,) = seen
        assert re.fullmatch(r"\.s0\.h5ad\.run-[0-9a-f]{8}\.[^.]+\.tmp", name)
        assert set(written(tmp_path)) == {late.name, "s0.h5ad"}

    def test_a_second_run_into_a_folder_is_refused(
        self, run: Any, records: Any, cells: Path, tmp_path: Path
    ) -> None:
        (tmp_path / ".s0.h5ad.run-00c0ffee.abc.tmp").write_bytes(b"of the first")
        start = [cells / "s0.h5ad", *MODEL, "-O", tmp_path]
        with hold(tmp_path):
            refused = run(*start, code=1)
            assert written(tmp_path) == {".s0.h5ad.run-00c0ffee.abc.tmp": b"of the first"}
        (line,) = refused.stderr.splitlines()
        assert line.startswith(f"error: another run is labelling into {tmp_path}; expected one run")
        assert "choose another -O" in line
        assert records(*start)["s0"]["status"] == "done"

    def test_the_lock_of_a_killed_run_is_gone(
        self, run: Any, records: Any, cells: Path, tmp_path: Path
    ) -> None:
        script = (
            "import sys\nfrom pathlib import Path\nfrom scbignn_infer.batch.manifest import hold\n"
            "with hold(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
        )
        command = [sys.executable, "-c", script, str(tmp_path)]
        start = [cells / "s0.h5ad", *MODEL, "-O", tmp_path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
            assert first.stdout is not None
            assert first.stdout.readline() == b"held\n"
            assert "another run" in run(*start, code=1).stderr
            first.kill()
        assert records(*start)["s0"]["status"] == "done"

    def test_without_locks_a_run_says_so_and_leaves_what_others_write(
        self, run: Any, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_locks(descriptor: int, how: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr("fcntl.flock", no_locks)
        other = tmp_path / ".s0.h5ad.run-00c0ffee.abc.tmp"
        other.write_bytes(b"perhaps at work")
        done = run(cells / "s0.h5ad", *MODEL, "-O", tmp_path, "--json")
        (warning,) = json.loads(done.stdout)["warnings"]
        assert "has no locks (No locks available)" in warning
        assert f"warning: {warning}" in done.stderr.splitlines()
        assert set(written(tmp_path)) == {other.name, "s0.h5ad"}

    def test_a_lost_record_makes_no_output_ours(
        self, run: Any, cells: Path, tmp_path: Path
    ) -> None:
        """Damage in the manifest is said, and nothing is done again or replaced in silence."""
        start = [cells / "s[01].h5ad", *MODEL, "-O", tmp_path]
        run(*start, "-q")
        before = written(tmp_path)
        manifest = tmp_path / MANIFEST
        kept = [s for s in manifest.read_bytes().splitlines(keepends=True) if b'"s0"' not in s]
        manifest.write_bytes(b"".join([b"\xff\0\n", *kept]))
        done = run(*start, code=3)
        assert f"warning: {manifest} has 1 damaged line (number 1)" in done.stderr
        assert f"s0: FAILED, {tmp_path / 's0.h5ad'} exists" in done.stderr
        assert "1 skipped, 1 failed" in done.stderr
        assert written(tmp_path) == before

    def test_folders_have_fingerprints(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x").write_bytes(b"1")
        first = samples.fingerprint(tmp_path / "a")
        (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
        assert samples.fingerprint(tmp_path / "a") != first

    def test_one_annotator_is_held(self, run: Any, cells: Path, tmp_path: Path) -> None:
        samples._held.clear()
        run(cells / "s*.h5ad", *MODEL, "-O", tmp_path, "-q")
        (held,) = samples._held.values()
        assert set(held.pair._sessions) == {"gene_level.onnx", "cell_level.onnx"}


@pytest.fixture(scope="module")
def large(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sample of 3,500 cells."""
    adata = ad.read_h5ad(cells / "s2.h5ad")
    rows = np.random.default_rng(0).integers(0, adata.n_obs, 3500)
    many = ad.AnnData(sp.csr_matrix(adata.X)[rows], var=adata.var[[]])
    path = tmp_path_factory.mktemp("large") / "q.h5ad"
    many.write_h5ad(path)
    return path


KILLED_AT_WRITING = """
import os, signal, sys
from scbignn_infer.annotation.rows import PartedRows
from scbignn_infer.cli import main
read = PartedRows._read
def die(self, start, stop):
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in ("_write_slices", "write_text") and start >= 1024:
            os.kill(os.getpid(), signal.SIGKILL)
        frame = frame.f_back
    return read(self, start, stop)
PartedRows._read = die
import scbignn_infer.output.elements as elements, scbignn_infer.output.table as table
elements.ROWS_AT_ONCE = table.ROWS_AT_ONCE = 1024
main(sys.argv[1:])
"""
"""A command that is killed when it has written a part of the cells."""


class TestParts:
    """One large sample, divided on the reference graph."""

    @pytest.mark.parametrize("split", [1500, 3000])
    def test_the_result_does_not_depend_on_the_division(
        self, run: Any, records: Any, large: Path, tmp_path: Path, split: int
    ) -> None:
        start = [large, *MODEL, "--graph", "reference", "-q", "-O"]
        run(*start, tmp_path / "whole")
        run(*start, tmp_path / "parts", "--split", split)
        assert written(tmp_path / "whole") == written(tmp_path / "parts")
        record = manifest_lines(tmp_path / "parts")[-1]
        assert record["cells"] == 3500
        again = records(*start[:-2], "-O", tmp_path / "parts", "--split", split)
        assert again["q"]["status"] == "skipped"

    def test_a_tissue_that_is_doubted_is_doubted_of_all_parts_together(
        self, run: Any, tmp_path: Path
    ) -> None:
        """None of the first part tells: its cells are of a type that occurs everywhere."""
        cells = ad.read_h5ad(Path(__file__).parent / "data" / "pancreas400.h5ad")
        everywhere = (cells.obs["cell_type"] == "macrophage").to_numpy()
        first = np.resize(np.flatnonzero(everywhere), 1024)
        order = np.concatenate([first, np.flatnonzero(~everywhere)])
        many = ad.AnnData(cells.X[order], var=cells.var)
        many.write_h5ad(tmp_path / "q.h5ad")
        start = [tmp_path / "q.h5ad", "-m", "human-body", "--tissue", "prostate"]
        start += ["--graph", "reference", "-O"]
        for more in ([], ["--split", 1024]):
            done = run(*start, tmp_path / f"o{len(more)}", *more)
            assert "the cells look like pancreas" in done.stderr, done.stderr
        assert written(tmp_path / "o0") == written(tmp_path / "o2")

    def test_a_part_without_counts_changes_nothing(
        self, run: Any, large: Path, tmp_path: Path
    ) -> None:
        """Nor do batches, which have no meaning on this graph."""
        cells = ad.read_h5ad(large)
        first = sp.csr_matrix((1024, cells.n_vars), dtype=cells.X.dtype)
        cells.X = sp.vstack([first, cells.X[1024:]], format="csr")
        cells.obs["sample"] = np.resize(["a", "b", "c"], cells.n_obs)
        cells.write_h5ad(tmp_path / "q.h5ad")
        start = [tmp_path / "q.h5ad", *MODEL, "--graph", "reference", "--batch-key", "sample", "-q"]
        run(*start, "-O", tmp_path / "whole")
        run(*start, "-O", tmp_path / "parts", "--split", 1024)
        assert written(tmp_path / "whole") == written(tmp_path / "parts")

    @pytest.mark.parametrize("form", ["csv", "h5ad", "parquet"])
    def test_joined_outputs_are_those_of_the_whole_in_every_format(
        self, run: Any, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
    ) -> None:
        """Slices that are read end within parts, and some cells are left out."""
        monkeypatch.setattr(elements, "ROWS_AT_ONCE", 700)
        monkeypatch.setattr(table, "ROWS_AT_ONCE", 700)
        monkeypatch.setattr(plain_tables, "BLOCK", 900)
        counts = ad.read_h5ad(large)
        counts.X.data = np.ceil(np.expm1(counts.X.data))
        counts.write_h5ad(query := tmp_path / "q.h5ad")
        least = int(np.quantile(np.asarray(counts.X.sum(axis=1)), 0.2))
        start = [query, *MODEL, "--graph", "reference", "--min-counts", least, "-q", "-O"]
        run(*start, tmp_path / "whole", "--format", form)
        run(*start, tmp_path / "parts", "--format", form, "--split", 1024)
        assert manifest_lines(tmp_path / "parts")[-1]["cells"] > 2 * 1024
        assert written(tmp_path / "whole") == written(tmp_path / "parts")

    def test_a_report_of_joined_parts_is_drawn(self, run: Any, large: Path, tmp_path: Path) -> None:
        """It needs all of the embedding."""
        start = [large, *MODEL, "--graph", "reference", "-q", "--reports", "-O"]
        run(*start, tmp_path, "--split", 2048)
        assert set(written(tmp_path)) == {"q.h5ad", "q.html"}

    def test_what_is_held_of_parts_is_what_a_memory_limit_meets(
        self, records: Any, large: Path, tmp_path: Path
    ) -> None:
        """A sample of ten million cells is joined in less than 3 GB, by what is estimated."""
        annotator = Annotator.load("human-pbmc", graph="reference", threads=1)
        spec = annotator.bundle.spec
        row = 4 * (spec.gene_level.embedding_size + len(spec.cell_types))
        assert estimate_join(10**7, 100_000, row).memory < 3 * 10**9
        assert annotator.estimate(10**7).memory > 10**10
        limit = annotator.estimate(1024).memory + 10**6
        assert estimate_join(3500, 1024, row).memory < limit < annotator.estimate(3500).memory
        start = [large, *MODEL, "--graph", "reference", "-O", tmp_path, "--split", 1024]
        start += ["--memory-limit", limit]
        assert records(*start)["q"]["status"] == "done"

    @pytest.mark.parametrize("form", ["csv", "h5ad"])
    def test_a_join_that_is_killed_leaves_nothing_and_is_done_again(
        self, run: Any, large: Path, tmp_path: Path, form: str
    ) -> None:
        start = [large, *MODEL, "--graph", "reference", "--format", form, "-q"]
        run(*start, "-O", tmp_path / "whole")
        command = ["annotate", *start, "-O", tmp_path / "parts", "--split", 1024]
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_AT_WRITING, *map(str, command)],
            check=False,
            capture_output=True,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        left = {path.name for path in (tmp_path / "parts").iterdir()}
        assert left
        assert f"q.{form}" not in left
        run(*command[1:])
        assert written(tmp_path / "whole") == written(tmp_path / "parts")

    def test_a_failed_part_fails_the_sample(
        self, records: Any, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from scbignn_infer.batch import split as parts

        def broken(part: parts.Part) -> str:
            return plain(part) if part.start == 0 else "the disk is full"

        plain = parts.label_part
        monkeypatch.setattr(cluster, "label_part", broken)
        start = [large, *MODEL, "--graph", "reference", "-O", tmp_path, "--split", 1024]
        assert records(*start, code=3)["q"]["error"] == "the disk is full"
        assert written(tmp_path) == {}

    def test_the_query_s_own_graph_is_not_divided(
        self, run: Any, large: Path, tmp_path: Path
    ) -> None:
        refused = run(large, *MODEL, "-O", tmp_path / "o", "--split", 1000, code=1)
        assert "--graph reference" in refused.stderr


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """Return the local workers, as they are begun."""
    begun: list[Child] = []

    class Noted(Child):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            begun.append(self)

    monkeypatch.setattr(cluster, "Child", Noted)
    return begun


@pytest.fixture
def twelve_thousand(large: Path, tmp_path: Path) -> Path:
    """Return a sample that takes some seconds."""
    small = ad.read_h5ad(large)
    rows = np.random.default_rng(1).integers(0, small.n_obs, 12_000)
    ad.AnnData(small.X[rows], var=small.var).write_h5ad(tmp_path / "large.h5ad")
    return tmp_path / "large.h5ad"


def sockets() -> set[str]:
    """Return the sockets of this process, where the system shows them."""
    found = set()
    for descriptor in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(descriptor))  # noqa: PTH115 - of no file
    return {name for name in found if name.startswith("socket:")}


class TestLocalWorkers:
    """Processes of this machine, through pipes."""

    def test_outputs_are_byte_for_byte_those_of_the_serial_run(
        self,
        records: Any,
        cells: Path,
        serial: dict[str, bytes],
        tmp_path: Path,
        children: list[Child],
    ) -> None:
        found = records(cells / "s*.h5ad", *MODEL, "-O", tmp_path, "--workers", 2)
        assert list(found) == ["s0", "s1", "s2"]
        assert written(tmp_path) == serial
        assert len(children) == 2

    def test_no_extra_and_no_socket_is_needed(
        self, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever reached one could run code."""
        monkeypatch.setitem(sys.modules, "distributed", None)
        before = sockets()
        tasks = [
            samples.Task(sample, Settings(model="human-pbmc"))
            for sample in samples.find_samples([str(cells / "s*.h5ad")], tmp_path)
        ]
        for record in cluster.run(tasks, workers=2):
            assert record["status"] == "done"
            assert sockets() <= before
        with pytest.raises(MissingExtraError, match="distributed"):
            list(cluster.run(tasks, scheduler="tcp://127.0.0.1:9"))

    def test_parts_are_labelled_side_by_side(self, run: Any, large: Path, tmp_path: Path) -> None:
        start = [large, *MODEL, "--graph", "reference", "-q", "-O"]
        run(*start, tmp_path / "whole")
        other = large.with_name("other.h5ad")
        shutil.copy(large, other)
        run(*start, tmp_path / "parts", other, "--split", 1024, "--workers", 2)
        parts = written(tmp_path / "parts")
        assert parts.pop("other.h5ad") == parts["q.h5ad"]
        assert written(tmp_path / "whole") == parts

    def test_a_worker_killed_in_the_middle_is_made_up_for(
        self,
        run: Any,
        until: Any,
        records: Any,
        twelve_thousand: Path,
        cells: Path,
        tmp_path: Path,
        children: list[Child],
    ) -> None:
        run(twelve_thousand, *MODEL, "-o", tmp_path / "alone.h5ad", "-q")
        out, killed = tmp_path / "out", []

        def kill() -> None:
            until(lambda: list(out.glob(".large.h5ad.*.tmp")))
            for child in children:
                os.kill(child.pid, signal.SIGKILL)
                killed.append(child.pid)

        thread = threading.Thread(target=kill)
        thread.start()
        start = [twelve_thousand, cells / "s0.h5ad"]
        found = records(*start, *MODEL, "-O", out, "--workers", 2)
        thread.join()
        assert len(killed) == 2
        assert found["large"]["status"] == "done"
        alone = (tmp_path / "alone.h5ad").read_bytes()
        assert set(written(out)) == {"large.h5ad", "s0.h5ad"}
        assert written(out)["large.h5ad"] == alone

    def test_a_sample_that_kills_its_workers_is_reported(
        self,
        cells: Path,
        tmp_path: Path,
        children: list[Child],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.syspath_prepend(Path(__file__).parent)
        import faults

        found = samples.find_samples([str(cells / "s*.h5ad")], tmp_path)
        plain = Settings(model="human-pbmc", threads=1)
        settings = [faults.FatalSettings(model="human-pbmc"), plain, plain]
        tasks = [samples.Task(f, s) for f, s in zip(found, settings, strict=True)]
        done = {record["sample"]: record for record in cluster.run(tasks, workers=2)}
        assert [done[f"s{i}"]["status"] for i in range(3)] == ["failed", "done", "done"]
        assert "worker was lost each time (SIGKILL" in done["s0"]["error"]
        assert len(children) in (1 + cluster.TRIES, 2 + cluster.TRIES)  # one more for the rest

    def test_a_sample_that_takes_too_long_is_ended(
        self, run: Any, records: Any, twelve_thousand: Path, cells: Path, tmp_path: Path
    ) -> None:
        start = [twelve_thousand, *MODEL, "-O", tmp_path / "o", "--time-limit"]
        found = records(*start, 0.5, code=3)
        assert "not done within 0.5 seconds (--time-limit)" in found["large"]["error"]
        assert written(tmp_path / "o") == {}
        assert records(cells / "s0.h5ad", *start[1:], 600)["s0"]["status"] == "done"
        refused = run(*start, 5, "--scheduler", "tcp://127.0.0.1:9", code=1)
        assert "leave out --time-limit or --scheduler" in refused.stderr

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_the_workers_and_leaves_nothing(
        self,
        start: Any,
        until: Any,
        twelve_thousand: Path,
        cells: Path,
        tmp_path: Path,
        number: int,
    ) -> None:
        out = tmp_path / "out"
        command = ["annotate", twelve_thousand, cells / "s0.h5ad", *MODEL, "-O", out]
        process = start(*command, "--workers", 2)
        until(lambda: list(out.glob(".large.h5ad.*.tmp")))
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        pids = [p for t in workers.parents[1].glob("*/children") for p in t.read_text().split()]
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert "Traceback" not in err
        assert len(pids) == 2
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        assert not list(out.glob(".*"))

    def test_a_killed_run_resumes(
        self,
        start: Any,
        until: Any,
        records: Any,
        cells: Path,
        serial: dict[str, bytes],
        tmp_path: Path,
    ) -> None:
        out = tmp_path / "out"
        process = start("annotate", cells / "s*.h5ad", *MODEL, "-O", out, "--workers", 2)
        until(lambda: finished(out))
        process.kill()
        process.wait()
        before = finished(out)
        assert before
        found = records(cells / "s*.h5ad", *MODEL, "-O", out, "--workers", 2)
        assert {n for n, r in found.items() if r["status"] == "skipped"} >= before
        assert {n: b for n, b in written(out).items() if not n.startswith(".")} == serial


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as local:
        yield local


class TestProcesses:
    """Two real processes of dask."""

    def test_parts_are_labelled_side_by_side(
        self, run: Any, large: Path, tmp_path: Path, workers: LocalCluster
    ) -> None:
        start = [large, *MODEL, "--graph", "reference", "-q", "-O"]
        run(*start, tmp_path / "whole")
        address = workers.scheduler_address
        run(*start, tmp_path / "parts", "--split", 1024, "--scheduler", address)
        assert written(tmp_path / "whole") == written(tmp_path / "parts")

    def test_a_worker_killed_in_the_middle_is_made_up_for(
        self,
        run: Any,
        until: Any,
        records: Any,
        twelve_thousand: Path,
        tmp_path: Path,
        workers: LocalCluster,
    ) -> None:
        start = [twelve_thousand, *MODEL]
        run(*start, "-o", tmp_path / "alone.h5ad", "-q")
        out, killed = tmp_path / "out", []
        with Client(workers) as client:
            pids = client.run(os.getpid)

            def kill() -> None:
                until(lambda: list(out.glob(".large.h5ad.*.tmp")))
                for pid in pids.values():
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

            thread = threading.Thread(target=kill)
            thread.start()
            found = records(*start, "-O", out, "--scheduler", workers.scheduler_address)
            thread.join()
        assert len(killed) == 2
        assert found["large"]["status"] == "done"
        assert written(out) == {"large.h5ad": (tmp_path / "alone.h5ad").read_bytes()}

    def test_a_sample_that_kills_its_workers_is_reported(
        self, cells: Path, tmp_path: Path, workers: LocalCluster
    ) -> None:
        found = samples.find_samples([str(cells / "s0.h5ad")], tmp_path)
        task = samples.Task(found[0], FatalSettings(model="human-pbmc"))
        (record,) = cluster.run([task], scheduler=workers.scheduler_address)
        assert record["status"] == "failed"
        assert "worker was lost" in record["error"]

    def test_a_scheduler_that_is_not_there(self, run: Any, cells: Path, tmp_path: Path) -> None:
        monkey = pytest.MonkeyPatch()
        monkey.setattr(cluster, "CONNECT_SECONDS", 1)
        for address in ("tcp://127.0.0.1:9", "nonsense://x"):
            failed = run(cells / "s0.h5ad", *MODEL, "-O", tmp_path, "--scheduler", address, code=1)
            assert "no dask scheduler answers" in failed.stderr
        monkey.undo()


class FatalSettings(Settings):
    """Settings whose annotator ends the process, as the system does where memory runs out."""

    def some(self, kind: type) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_no_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sample"):
        samples.find_samples([], tmp_path)
