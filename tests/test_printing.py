"""What reaches terminals and pipes: escapes, JSON that says why, and devices that are full."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import pytest

from scbignn_infer.model import registry
from scbignn_infer.plain import encodable, visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

STRAY = os.fsdecode(b"caf\xe9")
NASTY = "x\x1b[31m\x9b2J\r\u202e\u2066\u200f\u2028z"
PBMC = ["-m", "human-pbmc", "--threads", "1"]
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")


@pytest.fixture(scope="module")
def cells(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 60 cells of the example."""
    path = tmp_path_factory.mktemp("cells") / "q.h5ad"
    ad.read_h5ad(example)[:60].copy().write_h5ad(path)
    return path


# --- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("CD4+ T, γδ 细胞 é 👩", "CD4+ T, γδ 细胞 é 👩"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\x7f\x00", "a\\nb\\tc\\x7f\\x00"),
        ("\x85\x9b", "\\x85\\x9b"),
        ("\u202egnp\u2069\u200e\u061c\u2028", "\\u202egnp\\u2069\\u200e\\u061c\\u2028"),
        (STRAY, "caf\\xe9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_text_is_shown_without_commands_to_the_terminal(text: str, shown: str) -> None:
    assert visible(text) == shown
    visible(text).encode()
    encodable(text).encode()


def assert_plain(text: str) -> None:
    """Check that text moves no cursor and turns no direction."""
    lines = text.replace("\n", "")
    assert visible(lines) == lines


@pytest.fixture
def nasty_model(pbmc_bundle: Any, tmp_path: Path) -> Path:
    """Return a model each of whose names is an attack on the terminal."""
    folder = shutil.copytree(pbmc_bundle.path, tmp_path / "model")
    spec = json.loads((folder / "bundle.json").read_text())
    for kind in spec["cell_types"]:
        kind["label"] = NASTY + kind["label"]
    spec["interpretation"] = {NASTY + k: v for k, v in spec["interpretation"].items()}
    for key in ("version", "description", "licence", "tissue"):
        spec[key] = NASTY
    for key in ("notes", "cannot_tell"):
        spec["training"][key] = [NASTY]
    (folder / "bundle.json").write_text(json.dumps(spec))
    return folder


def test_names_in_files_and_models_send_no_commands(
    run: Any, cells: Path, nasty_model: Path, tmp_path: Path
) -> None:
    adata = ad.read_h5ad(cells)
    adata.obs_names = [f"{NASTY}{i}" for i in range(adata.n_obs)]
    adata.layers[NASTY] = adata.X.copy()
    query, out = tmp_path / f"{NASTY}.h5ad", tmp_path / "o.h5ad"
    adata.write_h5ad(query)
    done = [
        run("annotate", query, "-m", "human-pbmc", "-o", out, "--threads", "1"),
        run("annotate", query, "-m", "human-pbmc", "-O", tmp_path / "many"),
        run("annotate", query, "-m", nasty_model, "-o", tmp_path / "none.csv", code=1),
        run("annotate", query, "-m", "human-pbmc", "--matrix", NASTY, code=1),
        run("annotate", query, query, NASTY, code=2),
        run("annotate", query, f"--{NASTY}", code=2),
        run(f"{NASTY}", code=2),
        run("inspect", query),
        run("models", "explain", nasty_model, code=1),
        run("explain", query, "-m", "human-pbmc", "--cells", f"{NASTY}5"),
        run("explain", query, "-m", "human-pbmc", "--cells", "absent", code=1),
        run("models", "show", nasty_model, code=1),
        run("models", "verify", nasty_model, code=1),
        run("models", "verify", tmp_path / NASTY, code=1),
        run("evaluate", out, "--truth", "scbignn_best_cell_type"),
    ]
    for result in done:
        assert_plain(result.stdout)
        assert_plain(result.stderr)
    shown = "x\\x1b[31m\\x9b2J\\r\\u202e\\u2066\\u200f\\u2028z"
    assert all(shown in r.output for r in (done[1], done[7], done[9]))
    document = json.loads(run("inspect", query, "--json").stdout)
    assert document["file"] == str(query)


def test_all_that_commands_print_goes_through_one_file() -> None:
    folder = Path(registry.__file__).parents[1] / "cli"
    ways = re.compile(r"click\.s?echo\(|(?<![\w.])print\(|\bConsole\(|sys\.std(out|err)\.write")
    others = [p.name for p in folder.glob("*.py") if ways.search(p.read_text())]
    assert others == ["printing.py"]


# --- JSON ----------------------------------------------------------------------------------------


def failing(tmp_path: Path, cells: Path) -> list[tuple[list[object], int, str]]:
    absent, broken = tmp_path / "absent.h5ad", tmp_path / "broken.h5ad"
    broken.write_bytes(cells.read_bytes()[:3000])
    return [
        (["annotate", absent], 1, "no file"),
        (["annotate", broken, *PBMC], 1, "cannot read"),
        (["annotate", cells, "-m", "absent"], 1, "no model named"),
        (["annotate", cells, "-O", tmp_path], 1, "many samples and no model"),
        (["inspect", absent], 1, "no file"),
        (["evaluate", cells, "--truth", "bulk_labels"], 1, "holds no labels"),
        (["models", "explain", "absent"], 1, "no model named"),
        (["models", "explain", "human-pbmc", "--cell-type", "x"], 1, "has no type"),
        (["models", "show", "absent"], 1, "no model named"),
        (["annotate"], 2, "name a file to label"),
        (["annotate", cells, "--threads", "0"], 2, "'--threads'"),
        (["evaluate", cells], 2, "'--truth'"),
        (["models", "show"], 2, "'NAME'"),
        (["inspect", cells, "--no-such-option"], 2, "--no-such-option"),
        (["no-such-command"], 2, "no-such-command"),
    ]


def test_json_says_why_a_command_failed(run: Any, cells: Path, tmp_path: Path) -> None:
    for arguments, code, found in failing(tmp_path, cells):
        done = run(*arguments, "--json", code=code)
        error = json.loads(done.stdout)["error"]
        assert found in error["found"], arguments
        assert error["message"] == f"{error['found']}; expected {error['expected']}; {error['do']}"
        if code == 1:
            assert done.stderr == f"error: {error['message']}\n"
        else:
            assert done.stderr.splitlines()[-1] == f"Error: {error['found']}"
        assert run(*arguments, code=code).stdout == ""


def test_json_of_what_failed_in_part_says_so_too(
    run: Any, cells: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (toy / "reference.npz").write_bytes(b"")
    done = run("models", "verify", toy, "human-pbmc", "--json", code=1)
    assert json.loads(done.stdout)["error"]["found"] == "1 of 2 models cannot be used"
    start = ["annotate", cells, tmp_path / "absent.h5ad", *PBMC, "-O", tmp_path / "o", "--json"]
    done = run(*start, code=3)
    document = json.loads(done.stdout)
    assert document["error"]["found"] == "1 of 2 samples failed"
    assert "error: absent: no file" in done.stderr.splitlines()[-1]
    assert run(*start, "-q", code=3).stderr.startswith("error: absent: ")
    both = {"onnxruntime": "1", "onnxruntime-gpu": "1"}
    monkeypatch.setattr("scbignn_infer.doctor.installed_packages", lambda: both)
    document = json.loads(run("doctor", "--json", code=1).stdout)
    assert document["error"]["found"].startswith(f"{len(document['problems'])} problem")


def test_json_says_what_no_one_thought_of(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug keeps its traceback, and the disk's errors are one line."""

    def raising(error: Exception) -> Callable[[], Any]:
        def models() -> Any:
            raise error

        return models

    def failed(
        error: Exception, bug: type[Exception] | None = None
    ) -> tuple[Result, dict[str, str]]:
        monkeypatch.setattr(registry, "list_models", raising(error))
        done = run("models", "list", "--json", code=1, bug=bug)
        return done, json.loads(done.stdout)["error"]

    _, error = failed(ZeroDivisionError("of a library"), bug=ZeroDivisionError)
    assert error["found"] == "unexpected ZeroDivisionError: of a library"
    done, error = failed(OSError(errno.EIO, "Input/output error", "/data/x.h5ad"))
    assert done.stderr == f"error: {error['message']}\n"
    assert "/data/x.h5ad (Input/output error)" in error["found"]
    done, error = failed(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert done.stderr == f"error: {error['message']}\n"  # which is not that of stdout
    done, error = failed(MemoryError())
    assert error["found"] == "the memory ran out"
    assert done.stderr == f"error: {error['message']}\n"


def test_warnings_stand_beside_json(run: Any, cells: Path, tmp_path: Path) -> None:
    start = ["annotate", cells, *PBMC, "--overwrite", "--json"]
    done = run(*start, "-o", tmp_path / "o.csv")
    warnings = json.loads(done.stdout)["warnings"]
    assert warnings
    assert done.stderr.splitlines() == [f"warning: {w}" for w in warnings]
    assert run(*start, "-o", tmp_path / "o.csv", "-q").stderr == ""
    many = run(*start, "-O", tmp_path)
    assert many.stderr.splitlines() == [f"warning: q: {w}" for w in warnings]


# --- full devices, closed pipes ------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", ["models list --json", "models list", "--help", "--version"])
def test_a_full_device_is_one_line(start: Any, arguments: str) -> None:
    with open("/dev/full", "w") as full:
        process = start(*arguments.split(), stdout=full)
    _, err = process.communicate()
    assert process.returncode == 1
    (line,) = err.splitlines()
    assert line.startswith("error: cannot write to the standard output (No space left on device);")


@pytest.mark.parametrize("arguments", ["models list --json", "models list", "--help"])
def test_a_pipe_that_nobody_reads_ends_the_command_without_a_word(
    start: Any, arguments: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*arguments.split(), stdout=writer)
    os.close(writer)
    assert process.communicate()[1] == ""
    assert process.returncode == 1


def test_a_closed_stdout_is_told_and_a_closed_stderr_is_no_failure(
    start: Any, tmp_path: Path
) -> None:
    def said(closed: int, *arguments: str) -> tuple[int, str, str]:
        process = start(*arguments, preexec_fn=lambda: os.close(closed))
        out, err = process.communicate()
        return process.returncode, out, err

    code, _, err = said(1, "models", "show", "absent", "--json")
    assert code == 1
    assert err.startswith("error: no model named 'absent'")
    code, _, err = said(1, "models", "list")
    assert code == 1
    assert "standard output (Bad file descriptor)" in err
    code, out, _ = said(2, "models", "list")
    assert code == 0
    assert "human-pbmc" in out


def test_an_encoding_that_lacks_a_character_is_no_failure(
    start: Any, cells: Path, tmp_path: Path
) -> None:
    query = shutil.copy(cells, tmp_path / "日é.h5ad")
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    process = start("inspect", query, "-m", "human-pbmc", env=environment, text=False)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert b"\\u65e5\xe9.h5ad" in out


# --- file names that are not UTF-8 ---------------------------------------------------------------


@only_linux
def test_file_names_that_are_not_utf_8(
    run: Any, cells: Path, pbmc_bundle: Any, tmp_path: Path
) -> None:
    query = shutil.copy(cells, tmp_path / f"{STRAY}.h5ad")
    model = shutil.copytree(pbmc_bundle.path, tmp_path / STRAY)
    start = ["annotate", query, "-m", model, "--threads", "1", "--json"]
    for suffix in ("csv", "h5ad", "parquet"):
        target = tmp_path / f"{STRAY}.out.{suffix}"
        document = run(*start, "-o", target).stdout
        assert json.loads(document)["output"] == str(tmp_path / f"caf\\xe9.out.{suffix}")
        assert target.stat().st_size > 1000
    assert "caf\\xe9.out.parquet" in run(*start[:-1], "-o", target, "--overwrite").stderr
    many = [*start, "-O", tmp_path / f"{STRAY}.many"]
    assert json.loads(run(*many).stdout)["samples"][0]["status"] == "done"
    (sample,) = json.loads(run(*many).stdout)["samples"]
    assert sample["status"] == "skipped"
    assert sample["output"].endswith("caf\\xe9.many/caf\\xe9.h5ad")
    for command in (["inspect", query, "-m", model], ["models", "show", model]):
        assert "caf\\xe9" in run(*command).stdout
        assert "caf\\\\xe9" in run(*command, "--json").stdout
    assert "caf\\xe9.h5adx" in run("inspect", f"{query}x", code=1).stderr
    assert "UTF-8" in run(*start, "--key-added", STRAY, code=2).stderr


@only_linux
def test_pages_name_files_that_are_not_utf_8(run: Any, cells: Path, tmp_path: Path) -> None:
    query, page = shutil.copy(cells, tmp_path / f"{STRAY}.h5ad"), tmp_path / f"{STRAY}.html"
    name = ad.read_h5ad(query, backed="r").obs_names[3]
    run("explain", query, *PBMC, "--cells", name, "-o", page)
    assert "caf\\xe9.h5ad" in page.read_text(encoding="utf-8")
