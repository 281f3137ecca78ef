"""What surrounds a training and changes no result: device, checkpoints, progress and log."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from scbignn_infer.errors import InputError
from scbignn_training.checkpoint import Checkpoint
from scbignn_training.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scbignn_infer.model.bundle import EMIteration
    from scbignn_training.checkpoint import State


@dataclass(frozen=True)
class Run:
    """Where a training is done and how it is watched; by default on the CPU and not at all.

    Attributes
    ----------
    device
        Of the networks: ``cpu`` or ``cuda``.
    folder
        Where finished stages are kept, if anywhere, so that the same call goes on after it was
        killed; to be removed when the bundle is written.
    say
        Called with one line at the start of each stage, and every ten seconds in a long one.
    iteration
        Called after each EM iteration.
    checkpoint
        The finished stages of one training, see :meth:`watched`.
    progress
        Counts the steps of the networks.
    place
        What is being trained, in words: the name of the stage.
    """

    device: str = "cpu"
    folder: Path | None = None
    say: Callable[[str], None] = lambda line: None
    iteration: Callable[[EMIteration], None] = lambda row: None
    checkpoint: Checkpoint | None = None
    progress: Progress = field(default_factory=Progress)
    place: str = ""

    def watched(self, key: Callable[[], str], steps: int) -> Run:
        """Return the run of one training.

        Parameters
        ----------
        key
            Gives a digest of what decides the weights, for checkpoints.
        steps
            Steps of the networks of all its stages.
        """
        kept = Checkpoint(self.folder, key()) if self.folder is not None else None
        return replace(self, checkpoint=kept, progress=Progress(self.say, steps))

    def within(self, place: str) -> Run:
        """Return the run of a part."""
        return replace(self, place=f"{self.place}, {place}" if self.place else place)

    def once(self, work: Callable[[], State], *, steps: int = 0) -> State:
        """Do the stage of this place, or return what an unfinished run before has left of it.

        Parameters
        ----------
        work
            Makes the weights; must seed its own chance.
        steps
            Steps of the networks that it takes.
        """
        state = self.checkpoint.read(self.place) if self.checkpoint else None
        if state is not None:
            self.progress.restored(self.place, steps)
            return state
        self.progress.stage(f"training {self.place}")
        state = work()
        if self.checkpoint:
            self.checkpoint.write(self.place, state)
        return state


BARE = Run()
"""On the CPU, unwatched."""


def choose_device(wanted: str, *, has_cuda: bool) -> str:
    """Return where the networks train.

    Parameters
    ----------
    wanted
        ``auto``, ``cpu`` or ``cuda``.
    has_cuda
        Whether PyTorch can use a GPU here.

    Raises
    ------
    InputError
        A GPU is wanted and there is none.
    """
    if wanted == "cuda" and not has_cuda:
        raise InputError(
            "PyTorch finds no CUDA device",
            expected="an NVIDIA GPU and a build of PyTorch for CUDA",
            do="train with --device cpu, or install such a build",
        )
    return "cpu" if wanted == "cpu" or not has_cuda else "cuda"
