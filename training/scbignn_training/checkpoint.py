"""Finished stages of a training on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from scbignn_infer.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scbignn_training.data import Reference, Study
    from scbignn_training.settings import Settings

State = dict[str, Tensor]
DIGEST_BYTES = 32
PACKAGES = ("scbignn-infer", "torch", "torch-geometric", "numpy", "scipy", "scikit-learn")


class Checkpoint:
    """A folder with one file a finished stage.

    A file is a SHA-256 digest and what ``torch.save`` made of a dict of tensors; it is read with
    ``weights_only``, so nothing in it is run. Its name depends on the key: another key finds
    nothing.

    Parameters
    ----------
    folder
        Where; made when the first stage is written.
    key
        Digest of everything that decides the weights, see :func:`key_of`.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def path(self, stage: str) -> Path:
        """Return the file of a stage."""
        digest = hashlib.sha256(f"{self.key}/{stage}".encode()).hexdigest()[:16]
        return self.folder / f"{re.sub('[^a-z0-9]+', '-', stage.lower())}-{digest}.pt"

    def read(self, stage: str) -> State | None:
        """Return what a finished stage left; none where there is no file or a damaged one."""
        try:
            data = self.path(stage).read_bytes()
        except OSError:
            return None
        digest, payload = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        state: State = torch.load(io.BytesIO(payload), weights_only=True)
        return state

    def write(self, stage: str, state: State) -> None:
        """Keep what a stage left; the file appears whole or not at all.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getvalue()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            Path(name).replace(self.path(stage))
        except OSError as error:
            raise OutputError(
                f"cannot write the checkpoint {self.folder} ({error.strerror})",
                expected="a folder that can be written, with enough free space",
                do="choose another with -o",
            ) from None


def remove(folder: Path) -> None:
    """Remove the checkpoints of a training, if there are any."""
    shutil.rmtree(folder, ignore_errors=True)


def key_of(
    reference: Reference,
    foreign: Iterable[Study],
    settings: Settings,
    device: str,
    *,
    hold_out: int = 0,
) -> str:
    """Return a digest of everything that decides the weights.

    These are the cells as they were joined and the studies that are left out in turn, all
    settings, the versions of the packages, the number of threads and the device.
    """
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(value if isinstance(value, bytes) else msgspec.json.encode(value))
        digest.update(b"\0")

    def add_cells(cells: Reference | Study) -> None:
        for array in (cells.counts.data, cells.counts.indices, cells.counts.indptr):
            digest.update(np.ascontiguousarray(array).data)
        add([list(cells.counts.shape), cells.symbols, cells.ensembl_ids])

    add([settings, device, torch.get_num_threads(), [version(p) for p in PACKAGES]])
    add_cells(reference)
    add([reference.cell_types, reference.codes.tolist(), reference.batches.tolist()])
    add([reference.studies.tolist(), reference.simulated.tolist(), hold_out])
    if reference.measured is not None:
        add(np.packbits(reference.measured).tobytes())
    for study in foreign:
        add_cells(study)
    return digest.hexdigest()
