from __future__ import annotations

import os
import stat
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from scbignn_infer.errors import OutputError
from scbignn_training import checkpoint as module
from scbignn_training.checkpoint import Checkpoint, key_of, remove
from scbignn_training.data import Origin

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(4)}


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / ".model.checkpoint", "key")


def test_a_finished_stage_is_read_as_it_was_written(checkpoint):
    assert checkpoint.read("fold 1 of 3") is None
    checkpoint.write("fold 1 of 3", STATE)
    found = checkpoint.read("fold 1 of 3")
    assert set(found) == set(STATE)
    for name, value in STATE.items():
        assert torch.equal(found[name], value)
    (file,) = checkpoint.folder.iterdir()  # no part is left behind
    assert file.name.startswith("fold-1-of-3-")


def test_another_key_or_stage_finds_nothing(checkpoint):
    checkpoint.write("fold 1 of 3", STATE)
    assert checkpoint.read("fold 2 of 3") is None
    assert Checkpoint(checkpoint.folder, "other").read("fold 1 of 3") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:200],
        lambda data: data[:-300] + bytes([data[-300] ^ 1]) + data[-299:],
        lambda data: b"x" + data,
    ],
    ids=["empty", "a byte short", "cut", "a bit flipped", "shifted"],
)
def test_a_damaged_file_is_no_file(checkpoint, damage):
    checkpoint.write("stage", STATE)
    path = checkpoint.path("stage")
    path.write_bytes(damage(path.read_bytes()))
    assert checkpoint.read("stage") is None
    checkpoint.write("stage", STATE)
    assert checkpoint.read("stage") is not None


def test_writing_that_fails_leaves_the_old_file_and_is_one_line(checkpoint, monkeypatch):
    checkpoint.write("stage", STATE)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.Path, "replace", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        checkpoint.write("stage", {"weight": torch.zeros(3)})
    assert "\n" not in str(caught.value)
    assert torch.equal(checkpoint.read("stage")["weight"], STATE["weight"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError, match="cannot write the checkpoint"):
        Checkpoint(tmp_path / "new", "key").write("stage", STATE)


def test_removing_is_for_what_is_there_or_not(checkpoint):
    remove(checkpoint.folder)
    checkpoint.write("stage", STATE)
    remove(checkpoint.folder)
    assert not checkpoint.folder.exists()


class TestKey:
    """Whatever decides the weights changes the key."""

    def test_the_same_input_has_the_same_key(self, reference, foreign, settings):
        again = replace(reference, counts=reference.counts.copy())
        keys = {key_of(r, [foreign], settings, "cpu") for r in (reference, again)}
        assert len(keys) == 1

    def test_any_change_is_another_key(self, reference, foreign, settings, monkeypatch):
        counts = reference.counts.copy()
        counts.data[7] += 1
        codes = reference.codes.copy()
        codes[3] = (codes[3] + 1) % 5
        inputs = [
            (reference, [foreign], settings, "cpu"),
            (reference, [], settings, "cpu"),
            (reference, [foreign, foreign], settings, "cpu"),
            (reference, [foreign], settings, "cuda"),
            (reference, [foreign], msgspec.structs.replace(settings, seed=9), "cpu"),
            (replace(reference, counts=counts), [foreign], settings, "cpu"),
            (replace(reference, codes=codes), [foreign], settings, "cpu"),
            (replace(reference, batches=1 - np.sign(codes)), [foreign], settings, "cpu"),
            (replace(reference, symbols=reference.symbols[::-1]), [foreign], settings, "cpu"),
        ]
        keys = [key_of(*one) for one in inputs]
        keys.append(key_of(*inputs[0], hold_out=2))
        for studies in (("a", "a", "b"), ("a", "b", "b")):  # the same files, other studies
            origins = tuple(Origin(f"{i}", study=study) for i, study in enumerate(studies))
            batches = np.resize([0, 1, 2], len(codes))
            changed = replace(reference, batches=batches, origins=origins)
            keys.append(key_of(changed, *inputs[0][1:]))
        monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
        keys.append(key_of(*inputs[0]))
        monkeypatch.undo()
        monkeypatch.setattr(module, "version", lambda package: "0.0")
        keys.append(key_of(*inputs[0]))
        assert len(set(keys)) == len(keys)
