"""Mutated inputs: files, models and requests that nobody meant, by the thousand.

    python tests/mutants.py --inputs 10000 --seed 0 --out mutants.json

Each input is a whole one (40 real islet cells, the shipped model of the pancreas, a request of the
service) that was changed at random places. An input is known by its kind and number, so that
``--only h5ad:17`` makes it again. It must end in labels, or in one line and exit code 1; nothing
may crash, hang, print a traceback, need more than 2 GB or leave a file behind. ``test_mutants.py``
runs some of each kind.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from queue import Empty, Queue

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "tests" / "data" / "pancreas400.h5ad"
MODEL = ROOT / "exported_models" / "human-pancreas"
SECONDS, MEMORY = 60, 2_000_000_000
ADDRESSES = 16 << 30
"""Most address space of a worker, so that a fault harms it alone."""
STRANGE = (0, 1, -1, 2, 7, 255, 256, 2**15, 2**31 - 1, -(2**31), 2**32, 2**53, 2**63 - 1, -(2**63))
VALUES = (
    *(None, True, False, 0, -1, 1, 3, 1e308, -1e308, 1e-320, 10**6, 10**18, 10**30),
    *("", "x", "unknown", "../x", "/etc/passwd", "\x00", "\x1b[31m", "\u202e", "é", "A" * 5000),
    *([], [1], ["x"], [[]], {}, {"x": 1}),
)


def whole_inputs(folder: Path) -> None:
    """Write one whole input of each kind, as the programs of its format do."""
    import anndata as ad
    import pandas as pd
    import pyarrow as pa
    import scipy.sparse as sp
    from scipy.io import mmwrite

    warnings.simplefilter("ignore")
    cells = ad.read_h5ad(FIXTURE)[::10].copy()
    cells.layers["counts"] = sp.csr_matrix(cells.X)
    cells.obs["batch"] = pd.Categorical(["a", "b"] * (cells.n_obs // 2))
    cells.write_h5ad(folder / "cells.h5ad")
    cells.write_h5ad(folder / "packed.h5ad", compression="gzip")
    cells.write_zarr(folder / "cells.zarr")
    with zipfile.ZipFile(folder / "cells.zarr.zip", "w") as archive:
        for file in sorted((folder / "cells.zarr").rglob("*")):
            archive.write(file, file.relative_to(folder / "cells.zarr"))
    cells.to_df().to_csv(folder / "cells.csv")
    (folder / "cells.csv.gz").write_bytes(gzip.compress((folder / "cells.csv").read_bytes(), 1))
    (folder / "mtx").mkdir()
    x = sp.csr_matrix(cells.X)
    mmwrite(folder / "mtx" / "matrix.mtx", x.T)
    (folder / "mtx" / "genes.tsv").write_text("".join(f"{g}\t{g}\n" for g in cells.var_names))
    (folder / "mtx" / "barcodes.tsv").write_text("".join(f"{c}\n" for c in cells.obs_names))
    genes = list(cells.var_names)
    sparse = {k: getattr(x, k).tolist() for k in ("indptr", "indices", "data")} | {"shape": x.shape}
    (folder / "sparse.json").write_text(json.dumps({"genes": genes, "counts": sparse}))
    few = {"genes": genes, "counts": x[:5].toarray().tolist()}
    (folder / "dense.json").write_text(json.dumps(few))
    dense = x.toarray()
    table = pa.table({g: dense[:, i] for i, g in enumerate(genes)})
    with pa.ipc.new_stream(folder / "cells.arrow", table.schema) as stream:
        stream.write_table(table)
    shutil.copytree(MODEL, folder / "model")
    with zipfile.ZipFile(folder / "model.zip", "w") as archive:
        for file in sorted(MODEL.iterdir()):
            archive.write(file, file.name)


# --- changes -------------------------------------------------------------------------------------


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Change some places of some bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(max(len(out), 1))
        if rng.random() < 0.5:
            at = min(at, rng.choice((64, 512, 4096)))  # heads say more than bodies
        n = rng.choice((1, 2, 4, 8, 64, 1024))
        do = rng.randrange(9)
        if do == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif do == 1 and out:
            out[at % len(out)] = rng.randrange(256)
        elif do == 2:
            out[at : at + n] = rng.randbytes(n)
        elif do == 3:
            out[at : at + n] = bytes([rng.choice((0, 255))]) * n
        elif do == 4:
            del out[at : at + n]
        elif do == 5:
            out[at:at] = rng.randbytes(n)
        elif do == 6:
            out[at:at] = out[at : at + n] * rng.choice((1, 2, 50))
        elif do == 7:
            del out[at:]
        else:
            size = rng.choice((2, 4, 8))
            value = rng.choice(STRANGE) % (1 << (8 * size))
            out[at : at + size] = value.to_bytes(size, "little")
    return bytes(out)


def change_text(rng: random.Random, data: bytes) -> bytes:
    """Change words of a text, or its bytes."""
    if rng.random() < 0.3:
        return change_bytes(rng, data)
    words = re.split(rb"([,\t\n ])", data)
    odd = (b"", b"NaN", b"inf", b"-1", b"1e400", b"1,5", b'"', b"\x00", b"\xe9", b"x" * 100_000)
    for _ in range(rng.choice((1, 1, 3, 30))):
        at = rng.randrange(len(words))
        do = rng.randrange(4)
        if do == 0:
            words[at] = rng.choice(odd)
        elif do == 1:
            words[at] = rng.choice((b"\n", b"\t", b";", b"", b"\r\n", b"#"))
        elif do == 2:
            del words[at : at + rng.choice((1, 2, 100))]
        else:
            words[at:at] = words[at : at + rng.choice((1, 20, 2000))]
        words = words or [b""]
    return b"".join(words)


def change_json(rng: random.Random, data: bytes) -> bytes:
    """Change values of a document, or its bytes."""
    if rng.random() < 0.3:
        return change_bytes(rng, data)
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        node = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.8:
                node = node[key]
                continue
            do = rng.randrange(5)
            if do == 0:
                del node[key]
            elif do == 1 and isinstance(node, dict):
                node[rng.choice(("x", "name", "shape", ""))] = node.pop(key)
            elif do == 2 and isinstance(node, list):
                node[key:key] = [node[key]] * rng.choice((1, 2, 1000))
            else:
                node[key] = rng.choice((*VALUES, *STRANGE))
            break
    return json.dumps(document).encode()


def change_array(rng: random.Random, values: np.ndarray) -> np.ndarray:
    """Change values, type or shape of an array; some changes fit some arrays alone."""
    values = np.array(values)
    odd = rng.choice((*STRANGE, np.nan, np.inf, 1e30))
    kind = rng.choice(("S4", "f8", "f2", "i1", "u8", "?", "c8", "O"))
    changes = (
        lambda: np.where(np.arange(values.size).reshape(values.shape) == at, odd, values),
        lambda: np.where(True, odd, values).astype(values.dtype),
        lambda: values[: len(values) // 2],
        lambda: np.concatenate([values, values[:1]]),
        lambda: values.astype(kind),
        lambda: values.T if values.ndim > 1 else values.reshape(1, -1),
        lambda: np.zeros_like(values),
        lambda: -values,
        lambda: np.flip(values).copy(),
    )
    at = rng.randrange(max(values.size, 1))
    change = rng.choice(changes)
    with contextlib.suppress(Exception), np.errstate(all="ignore"):
        return change()
    return values


def change_hdf5(rng: random.Random, path: Path) -> None:
    """Change nodes and attributes of an HDF5 file."""
    import h5py

    with h5py.File(path, "r+") as file:
        for _ in range(rng.choice((1, 1, 2, 4))):
            names: list[str] = []
            file.visit(names.append)
            with contextlib.suppress(Exception):  # a change that HDF5 does not take is none
                change_node(rng, file, rng.choice(names), names)


def change_node(rng: random.Random, file, name: str, names: list[str]) -> None:
    import h5py

    node, do = file[name], rng.randrange(9)
    if do == 0:
        del file[name]
    elif do == 1 and node.attrs:
        key = rng.choice(list(node.attrs))
        node.attrs[key] = rng.choice((*STRANGE, "", "x", "csr_matrix", "dict", [1, 2], 0.5, "null"))
    elif do == 2 and node.attrs:
        del node.attrs[rng.choice(list(node.attrs))]
    elif do == 3:
        file.move(name, f"{name.rpartition('/')[0]}/other")
    elif do == 4:
        del file[name]
        file[name] = rng.choice(
            (
                h5py.SoftLink("/nowhere"),
                h5py.SoftLink(f"/{rng.choice(names)}"),
                h5py.ExternalLink("cells.h5ad", f"/{name}"),
                h5py.ExternalLink("/etc/passwd", "/"),
            )
        )
    elif do == 5:
        other = file[rng.choice(names)]
        del file[name]
        file[name] = other
    elif isinstance(node, h5py.Dataset):
        attributes = dict(node.attrs)
        values = node[()]
        del file[name]
        if do == 6:
            values = np.array([rng.choice(("", "x", "\x00", "é"))] * max(np.size(values), 1), "O")
            new = file.create_dataset(name, data=values, dtype=h5py.string_dtype())
        else:
            new = file.create_dataset(name, data=change_array(rng, values))
        new.attrs.update(attributes)


def change_folder(rng: random.Random, folder: Path) -> None:
    """Change files of a Zarr store, most of all its documents."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    for _ in range(rng.choice((1, 1, 2))):
        documents = [p for p in files if p.suffix == ".json" or p.name.startswith(".z")]
        file = rng.choice(documents if rng.random() < 0.7 else files)
        do = rng.randrange(12)
        file.parent.mkdir(parents=True, exist_ok=True)
        if do == 0:
            file.unlink(missing_ok=True)
        elif do == 1:
            file.unlink(missing_ok=True)
            file.symlink_to("/etc/passwd")
        elif do == 2:
            file.write_bytes(b"")
        elif file.is_file() and file in documents:
            with contextlib.suppress(ValueError):
                file.write_bytes(change_json(rng, file.read_bytes()))
        elif file.is_file():
            file.write_bytes(change_bytes(rng, file.read_bytes()))


def change_onnx(rng: random.Random, data: bytes) -> bytes:
    """Change nodes and constants of a graph, or its bytes."""
    if rng.random() < 0.4:
        return change_bytes(rng, data)
    try:
        import onnx
    except ImportError:  # only in the training extra
        return change_bytes(rng, data)
    model = onnx.load_model_from_string(data)
    graph = model.graph
    for _ in range(rng.choice((1, 1, 3))):
        do, node = rng.randrange(7), rng.choice(graph.node)
        if do == 0:
            node.op_type = rng.choice(("Identity", "Loop", "MatMul", "TopK", "Nothing", "Exp"))
        elif do == 1 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(graph.node).output[0]
        elif do == 2:
            graph.node.remove(node)
        elif do == 3 and graph.initializer:
            tensor = rng.choice(graph.initializer)
            del tensor.dims[:]
            tensor.dims.extend([rng.choice((0, 1, 7, 10**9))] * rng.randrange(3))
        elif do == 4 and graph.initializer:
            tensor = rng.choice(graph.initializer)
            with contextlib.suppress(Exception):  # an earlier change may have left no array
                values = change_array(rng, onnx.numpy_helper.to_array(tensor))
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        elif do == 5:
            side = rng.choice((graph.input, graph.output))
            rng.choice(side).name = rng.choice(("x", "counts", "logits", ""))
        else:
            graph.node.extend([node] * rng.choice((1, 1000)))
        if not graph.node:
            break
    return model.SerializeToString()


def change_npz(rng: random.Random, data: bytes) -> bytes:
    """Change tables of a model, or their bytes."""
    if rng.random() < 0.3:
        return change_bytes(rng, data)
    with np.load(io.BytesIO(data)) as npz:
        arrays = dict(npz)
    key = rng.choice(sorted(arrays))
    if rng.random() < 0.2:
        del arrays[key]
    else:
        arrays[key] = change_array(rng, arrays[key])
    out = io.BytesIO()
    rng.choice((np.savez, np.savez_compressed))(out, **arrays)
    return out.getvalue()


def change_model(rng: random.Random, folder: Path, name: str) -> None:
    """Change a file of a model and sign it anew, so that its checksum is right."""
    file, record = folder / name, folder / "bundle.json"
    change = {"bundle.json": change_json}.get(name)
    change = change or (change_npz if name.endswith("npz") else change_onnx)
    file.write_bytes(change(rng, file.read_bytes()))
    if file == record:
        return
    spec = json.loads(record.read_bytes())
    data = file.read_bytes()
    spec["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    record.write_text(json.dumps(spec))


# --- inputs --------------------------------------------------------------------------------------


def make_input(kind: str, number: int, seed: int, whole: Path, folder: Path) -> list[str]:
    """Make an input in a folder and return the arguments that have it read."""
    rng = random.Random(f"{seed}:{kind}:{number}")
    query, model = str(whole / "cells.h5ad"), "human-pancreas"
    if kind == "h5ad":
        query = str(folder / "q.h5ad")
        shutil.copy(whole / rng.choice(("cells.h5ad", "packed.h5ad")), query)
        if rng.random() < 0.5:
            change_hdf5(rng, Path(query))
        else:
            Path(query).write_bytes(change_bytes(rng, Path(query).read_bytes()))
    elif kind == "zarr":
        query = str(folder / "q.zarr")
        shutil.copytree(whole / "cells.zarr", query)
        change_folder(rng, Path(query))
    elif kind == "zip":
        name = rng.choice(("cells.zarr.zip", "model.zip"))
        changed = folder / f"q.{name}"
        changed.write_bytes(change_bytes(rng, (whole / name).read_bytes()))
        query, model = (query, str(changed)) if name == "model.zip" else (str(changed), model)
    elif kind == "text":
        name = rng.choice(("cells.csv", "cells.csv.gz", "mtx"))
        query = str(folder / f"q.{name}")
        if name == "mtx":
            shutil.copytree(whole / name, query)
            file = Path(query) / rng.choice(("matrix.mtx", "genes.tsv", "barcodes.tsv"))
            file.write_bytes(change_text(rng, file.read_bytes()))
        elif name.endswith("gz"):
            Path(query).write_bytes(change_bytes(rng, (whole / name).read_bytes()))
        else:
            Path(query).write_bytes(change_text(rng, (whole / name).read_bytes()))
    else:
        model = str(folder / "model")
        shutil.copytree(whole / "model", model)
        names = {"npz": ("statistics.npz", "reference.npz"), "json": ("bundle.json",)}
        files = names.get(kind, ("gene_level.onnx", "cell_level.onnx"))
        change_model(rng, Path(model), rng.choice(files))
    return [query, model]


def make_body(number: int, seed: int, whole: Path) -> tuple[str, bytes]:
    """Make a request: its content type and its body."""
    rng = random.Random(f"{seed}:http:{number}")
    name = rng.choice(("sparse.json", "dense.json", "cells.arrow", "cells.h5ad"))
    data = (whole / name).read_bytes()
    if name.endswith("json"):
        return "application/json", change_json(rng, data)
    if name.endswith("arrow"):
        return "application/vnd.apache.arrow.stream", change_bytes(rng, data)
    if rng.random() < 0.5:
        return "application/x-hdf5", change_bytes(rng, data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "q.h5ad"
        path.write_bytes(data)
        change_hdf5(rng, path)
        return "application/x-hdf5", path.read_bytes()


KINDS = ("h5ad", "zarr", "npz", "onnx", "json", "zip", "text", "http")


# --- a worker ------------------------------------------------------------------------------------


def work(whole: Path, seed: int) -> None:
    """Label inputs as they are named on stdin, and say on stdout how each ended."""
    os.environ["OMP_NUM_THREADS"] = "1"
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    said = tempfile.TemporaryFile()  # noqa: SIM115 - for the life of the process
    for stream in (1, 2):
        os.dup2(said.fileno(), stream)
    from scbignn_infer.cli import main

    for line in sys.stdin:
        kind, number = line.split()
        with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as name:
            folder, output = Path(name), Path(name) / "out.csv"
            query, model = make_input(kind, int(number), seed, whole, folder)
            before = {p.name for p in folder.iterdir()}
            said.seek(0)
            said.truncate()
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
            start = time.perf_counter()
            try:
                main(
                    ["annotate", query, "-m", model, "-o", str(output), "-q", "--threads", "1"],
                    standalone_mode=True,
                )
                code: object = 0
            except SystemExit as ended:
                code = ended.code or 0
            except BaseException as error:  # noqa: BLE001 - what is looked for
                code = f"{type(error).__name__}: {error}"
            seconds = time.perf_counter() - start
            sys.stdout.flush()
            sys.stderr.flush()
            said.seek(0)
            text = said.read(20_000).decode(errors="replace")
            left = sorted({p.name for p in folder.iterdir()} - before - {output.name})
            ended = how_it_ended(code, text, written=output.exists(), left=left)
            memory = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
            fault = "" if ended in ("labelled", "refused") else ended
            if memory * 1024 > MEMORY:
                fault = f"{memory / 1e6:.1f} GB"
            print(
                json.dumps(
                    {
                        "ended": ended if not fault else "fault",
                        "fault": fault,
                        "line": text[:500],
                        "seconds": round(seconds, 2),
                        "mb": memory // 1024,
                    }
                ),
                file=answers,
                flush=True,
            )


def how_it_ended(code: object, text: str, *, written: bool, left: list[str]) -> str:
    """Return ``labelled``, ``refused``, or what is wrong."""
    if left:
        return f"left behind: {', '.join(left)}"
    if code == 0:
        return "labelled" if written else "exit code 0 and no output"
    if code != 1 or not text.startswith("error: ") or "Traceback" in text:
        return f"exit code {code}: {text[-300:]}"
    if len(text.splitlines()) != 1:
        return f"{len(text.splitlines())} lines: {text[:300]}"
    return "an output after an error" if written else "refused"


class Worker:
    """A process that labels inputs, and is killed where it hangs."""

    def __init__(self, whole: Path, seed: int) -> None:
        self._command = [sys.executable, __file__, "--work", str(whole), "--seed", str(seed)]
        self._process: subprocess.Popen[str] | None = None

    def run(self, kind: str, number: int) -> dict[str, object]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        process, start = self._process, time.perf_counter()
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{kind} {number}\n")
            process.stdin.flush()
        line = process.stdout.readline()
        timer.cancel()
        if line:
            return json.loads(line)
        code = process.wait()
        self._process = None
        seconds = time.perf_counter() - start
        fault = "hang" if seconds >= SECONDS else f"crash: exit code {code}"
        return {"ended": "fault", "fault": fault, "seconds": round(seconds, 1), "line": "", "mb": 0}

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()


class Server:
    """The service, and requests to it."""

    def __init__(self, whole: Path, seed: int) -> None:
        self._whole, self._seed = whole, seed
        self._process: subprocess.Popen[str] | None = None

    def _start(self) -> None:
        command = [sys.executable, "-m", "scbignn_infer.cli", "serve", "-m", "human-pancreas"]
        command += ["--port", "0", "--threads", "1", "--timeout", str(SECONDS - 10)]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self._lines: list[str] = []
        first = self._process.stderr.readline()
        self._address = re.search(r"http://\S+", first)[0]
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stderr:
            self._lines.append(line)

    def run(self, kind: str, number: int) -> dict[str, object]:
        import httpx

        if self._process is None or self._process.poll() is not None:
            self._start()
        sort, body = make_body(number, self._seed, self._whole)
        start = time.perf_counter()
        fault, text = "", ""
        try:
            answer = httpx.post(
                f"{self._address}/annotate",
                content=body,
                headers={"Content-Type": sort},
                timeout=SECONDS,
            )
            text = answer.text[:500]
            if answer.status_code >= 500 and answer.status_code not in (501, 503, 504):
                fault = f"status {answer.status_code}: {text}"
            httpx.get(f"{self._address}/health", timeout=5).raise_for_status()
            code = answer.status_code
        except httpx.HTTPError as error:
            fault, code = f"{type(error).__name__}: {error}", 0
        if any("Traceback" in line for line in self._lines):
            fault = fault or f"traceback: {''.join(self._lines)[-500:]}"
        self._lines.clear()
        memory = memory_of_group(self._process.pid)
        if memory > MEMORY:
            fault = fault or f"{memory / 1e9:.1f} GB"
        return {
            "ended": "fault" if fault else "labelled" if code == 200 else "refused",
            "fault": fault,
            "line": text if code != 200 else "",
            "seconds": round(time.perf_counter() - start, 2),
            "mb": memory >> 20,
        }

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()


def memory_of_group(leader: int) -> int:
    """Return the most that a process and its children have held, in bytes."""
    most = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError, ProcessLookupError):
            if os.getpgid(int(status.parent.name)) == leader or _parent(status) == leader:
                found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
                most = max(most, int(found[1]) << 10 if found else 0)
    return most


def _parent(status: Path) -> int:
    return int(re.search(r"PPid:\s+(\d+)", status.read_text())[1])


# --- all of them ---------------------------------------------------------------------------------


def run_all(
    inputs: int, seed: int, workers: int, kinds: tuple[str, ...], only: str | None
) -> list[dict[str, object]]:
    """Return how each input ended."""
    todo: Queue[tuple[str, int]] = Queue()
    if only:
        kind, number = only.split(":")
        todo.put((kind, int(number)))
    else:
        for i in range(inputs):
            todo.put((kinds[i % len(kinds)], i // len(kinds)))
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name)
        whole_inputs(whole)

        def loop() -> None:
            worker, server = Worker(whole, seed), Server(whole, seed)
            while True:
                try:
                    kind, number = todo.get_nowait()
                except Empty:
                    break
                done = (server if kind == "http" else worker).run(kind, number)
                results.append({"kind": kind, "number": number, **done})
                if done["ended"] == "fault":
                    print(f"{kind}:{number} {done['fault']}", file=sys.stderr, flush=True)
            worker.close()
            server.close()

        threads = [threading.Thread(target=loop) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results


def summarise(results: list[dict[str, object]]) -> dict[str, object]:
    """Return how many of each kind ended how, the slowest and the largest."""
    rows = {}
    for kind in KINDS:
        mine = [r for r in results if r["kind"] == kind]
        if mine:
            ended = Counter(r["ended"] for r in mine)
            rows[kind] = {
                "inputs": len(mine),
                **{how: ended[how] for how in ("labelled", "refused", "fault")},
                "most_seconds": max(r["seconds"] for r in mine),
                "most_mb": max(r["mb"] for r in mine),
            }
    return rows


def main() -> None:
    """Run inputs and exit with 1 if any ended in a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--only", help="one input again, such as h5ad:17")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work is not None:
        work(asked.work, asked.seed)
        return
    kinds = tuple(asked.kinds.split(","))
    results = run_all(asked.inputs, asked.seed, asked.workers, kinds, asked.only)
    rows = summarise(results)
    for kind, row in rows.items():
        print(kind, json.dumps(row))
    faults = [r for r in results if r["ended"] == "fault"]
    if asked.only:
        print(json.dumps(results, indent=2))
    if asked.out is not None:
        lines = {
            "seed": asked.seed,
            "kinds": rows,
            "faults": sorted(faults, key=lambda r: (r["kind"], r["number"])),
        }
        asked.out.write_text(json.dumps(lines, indent=2) + "\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
