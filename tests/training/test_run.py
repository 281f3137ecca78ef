from __future__ import annotations

import pytest
import torch

from scbignn_infer.errors import InputError
from scbignn_training.checkpoint import Checkpoint
from scbignn_training.progress import Progress
from scbignn_training.run import BARE, Run, choose_device


@pytest.mark.parametrize(
    ("wanted", "has_cuda", "device"),
    [
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_the_device_is_the_wanted_one_or_the_best(wanted, has_cuda, device):
    assert choose_device(wanted, has_cuda=has_cuda) == device


def test_a_gpu_that_is_not_there_is_one_line():
    with pytest.raises(InputError, match="no CUDA device") as caught:
        choose_device("cuda", has_cuda=False)
    assert "--device cpu" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_places_nest():
    assert BARE.within("split 1 of 2").within("fold 3 of 3").place == "split 1 of 2, fold 3 of 3"


def test_a_stage_is_done_once(tmp_path):
    """A second run finds what the first has left; its steps count as done."""
    done, lines = [], []

    def work():
        done.append(1)
        return {"x": torch.ones(2)}

    for _ in range(2):
        progress = Progress(lines.append, total=8)
        run = Run(checkpoint=Checkpoint(tmp_path / "c", "key"), progress=progress).within(
            "fold 1 of 2"
        )
        assert run.once(work, steps=4)["x"].tolist() == [1.0, 1.0]
        progress.stage("next")
    assert len(done) == 1
    assert lines == [
        "training fold 1 of 2: 0 % of all steps",
        "next: 0 % of all steps",
        "fold 1 of 2: taken from the unfinished run",
        "next: 50 % of all steps",
    ]


def test_without_a_checkpoint_it_is_done_each_time():
    done = []
    for _ in range(2):
        BARE.once(lambda: done.append(1) or {})
    assert len(done) == 2
