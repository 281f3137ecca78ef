"""What all readers of files share: a reader says only how its format is laid out."""

from __future__ import annotations

import errno
import warnings
from abc import abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from scbignn_infer.errors import InputError, ScBiGNNError, is_want_of_memory, reason
from scbignn_infer.query.readers.bounds import memory_of_machine
from scbignn_infer.query.readers.columns import INDEX
from scbignn_infer.query.readers.query import AnnDataQuery, BaseQuery

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import anndata as ad

    from scbignn_infer._types import Array
    from scbignn_infer.query.identity import Identity
    from scbignn_infer.settings import Orientation

SPATIAL = "spatial"
"""Slot of obsm with the places of cells, as scanpy and squidpy have it."""


@dataclass(frozen=True)
class Source:
    """A file or folder with cells, and how the user wants it read."""

    path: Path
    known_genes: Collection[str] = ()
    """Names of genes, which tell the sides of a text table apart."""
    orientation: Orientation | None = None
    """Of a text table."""
    modality: str | None = None
    """Of a MuData."""
    table: str | None = None
    """Of a SpatialData."""
    most_bytes: int | None = None
    """Memory for a part that is read whole; by default that of the machine."""
    root: Any = None
    """Of an HDF5 file or a Zarr store, which is open; else ``None``."""

    def close(self) -> None:
        """Close the root; a closed one stays so."""
        if self.root is not None:
            (self.root if hasattr(self.root, "close") else self.root.store).close()


class Places(Protocol):
    """Tells where cells lie."""

    def of(self, names: Sequence[str]) -> Array | None:
        """Return x and y (n, 2) of cells; ``None`` if none of them is known."""


class FileQuery(BaseQuery):
    """Cells of a file.

    A reader sets :attr:`kind` and says what :meth:`_begin`, :meth:`_obs`, :meth:`_var`,
    :meth:`_read` and :meth:`_whole` are. All that is read through the methods here may fail as the
    reading libraries do: :meth:`errors` makes one line of it. Closing this closes the root.
    """

    kind: str
    """What a whole file is called in messages."""
    h5ad: ClassVar[bool] = False
    """Whether the file can be copied and get slots; else :meth:`to_adata` makes one that can."""
    identity: Identity
    """Which file was opened; :func:`~scbignn_infer.query.readers.open_query` sets it."""
    notes: Sequence[str] = ()
    """What the user should know of how it was read."""
    places: Places | None = None
    """Where the cells lie, if they are of a tissue."""

    def __init__(self, source: Source) -> None:
        self.path, self.name = source.path, str(source.path)
        self._source, self._root = source, source.root
        self._most = memory_of_machine() if source.most_bytes is None else source.most_bytes
        with self.errors():
            self.n_cells = self._begin()
        if self.n_cells == 0:
            raise InputError(
                f"{self.name} holds zero cells",
                expected="at least one cell",
                do="check how it was made",
            )

    @abstractmethod
    def _begin(self) -> int:
        """Read what is held from the start, and return the number of cells."""

    @abstractmethod
    def _whole(self) -> ad.AnnData:
        """Return all of the file in memory."""

    def _uns(self, key: str) -> Any:
        return None

    def errors(self) -> AbstractContextManager[None]:
        """Return what surrounds all reading, to say in one line why it failed."""
        return one_line(self.path, self.kind)

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the names of the genes; none are refused."""
        columns = super().gene_columns(matrix)
        if not columns[INDEX]:
            raise InputError(
                f"{self.name} holds zero genes in {matrix}",
                expected="a matrix of cells x genes",
                do="check how the file was made",
            )
        return columns

    def uns(self, key: str) -> Any:
        """Return ``uns[key]``, or ``None`` where there is none."""
        with self.errors():
            return self._uns(key)

    def to_adata(self) -> ad.AnnData:
        """Return all of the file in memory."""
        with self.errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of cells of one name, and of a file's age
            cells = self._whole()
        where = None if self.places is None else self.places.of(self.cell_names())
        if where is not None:
            cells.obsm[SPATIAL] = where
        return cells

    def close(self) -> None:
        """Close the file; a closed one stays so."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class HeldFile(FileQuery, AnnDataQuery):
    """A file of a format that is read as a whole."""

    @abstractmethod
    def _load(self) -> ad.AnnData:
        """Return what the file holds."""

    def _begin(self) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of cells of one name, which are kept and counted
            self._adata = self._load()
        return int(self._adata.n_obs)

    def _uns(self, key: str) -> Any:
        return self._adata.uns.get(key)

    def _whole(self) -> ad.AnnData:
        return self._adata


@contextmanager
def one_line(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the reading libraries raise into one InputError."""
    try:
        yield
    except (ScBiGNNError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - h5py, anndata, pandas, scipy raise a dozen classes
        if is_want_of_memory(error):
            raise MemoryError(f"{path}: {reason(error)}") from None
        if isinstance(error, OSError) and error.errno == errno.EAGAIN:
            raise InputError(
                f"{path} is open in another program, which may be writing into it",
                expected="a file that no program writes into",
                do="close it there (in a notebook, close the file or restart the kernel), then "
                "run again",
            ) from None
        raise InputError(
            f"cannot read {path} ({reason(error)})",
            expected=f"a whole {kind}",
            do="check that it was copied to its end and that the program that wrote it opens it",
        ) from None
