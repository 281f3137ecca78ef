"""Files that hold several AnnData: MuData (modalities) and SpatialData (tables)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from scbignn_infer.errors import InputError
from scbignn_infer.query.containment import open_hdf5
from scbignn_infer.query.gene_names import all_names
from scbignn_infer.query.readers.anndata_files import AnnDataFile, read_element
from scbignn_infer.query.readers.bounds import memory_of_machine, weigh
from scbignn_infer.query.readers.query import (
    RNA,
    descriptor_of,
    known_names,
    one_line,
    string_columns,
)

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad


class Container(NamedTuple):
    """A kind of file that holds several AnnData.

    Attributes
    ----------
    name
        Of the kind.
    group
        Where they stand in it.
    option
        Which chooses one of them.
    """

    name: str
    group: str
    option: str


MUDATA = Container("MuData", "mod", "modality")
SPATIALDATA = Container("SpatialData", "tables", "table")
OLD_SPATIALDATA = Container("SpatialData", "table", "table")


class Members(NamedTuple):
    """Which AnnData of a container the user wants.

    Attributes
    ----------
    modality
        Of a MuData; by default the one with genes.
    table
        Of a SpatialData; by default the only one.
    """

    modality: str | None = None
    table: str | None = None


class MemberFile(AnnDataFile):
    """One AnnData of a file that holds several.

    Parameters
    ----------
    path
        The file or store.
    root
        It, open for reading.
    container, member
        What kind it is, and which of its AnnData is read.
    most_bytes
        Memory that a part of it may take; by default that of the machine.
    """

    def __init__(
        self,
        path: Path,
        root: Any,
        container: Container,
        member: str,
        most_bytes: int | None = None,
    ) -> None:
        where = f"{container.group}/{member}"
        self._root = root
        super().__init__(path, root[where], f"{container.name} file", most_bytes)
        self.name = f"{path} ({where})"

    def to_adata(self) -> ad.AnnData:
        """Return the AnnData in memory."""
        import anndata as ad

        with one_line(self.path, self._kind):
            weigh(self._file, self.name, self._most)
            found = read_element(self._file)
            if not isinstance(found, ad.AnnData):
                raise TypeError(f"{self.name} is no AnnData")
            return found

    def close(self) -> None:
        """Close the file."""
        (self._root if hasattr(self._root, "close") else self._root.store).close()


def container_of(root: Any) -> Container | None:
    """Return the kind of an open file or store that holds several AnnData; else ``None``."""
    if "mod" in root and (dict(root.attrs).get("encoding-type") == "MuData" or "X" not in root):
        return MUDATA
    if "obs" in root:
        return None
    return next((kind for kind in (SPATIALDATA, OLD_SPATIALDATA) if kind.group in root), None)


def refuse_members(path: Path, wanted: Members) -> None:
    """Refuse a choice among the AnnData of a file that holds no several.

    Raises
    ------
    InputError
        One was chosen.
    """
    for kind, member in ((MUDATA, wanted.modality), (SPATIALDATA, wanted.table)):
        if member is not None:
            raise InputError(
                f"{path} is no {kind.name}, and '{member}' was asked for",
                expected=f"a {kind.name} file",
                do=f"leave out --{kind.option}",
            )


def open_h5(
    path: Path, container: Container, wanted: Members, most_bytes: int | None = None
) -> MemberFile:
    """Open one AnnData of an HDF5 file that holds several; see :func:`open_member`."""
    with one_line(path, f"{container.name} file"), ExitStack() as stack:
        root = stack.enter_context(open_hdf5(path))
        member = open_member(path, root, container, wanted, most_bytes)
        member.descriptor = descriptor_of(root)
        stack.pop_all()  # from now on, the member closes it
        return member


def open_member(
    path: Path, root: Any, container: Container, wanted: Members, most_bytes: int | None = None
) -> MemberFile:
    """Open one AnnData of a file that holds several.

    Parameters
    ----------
    path
        The file or store.
    root
        It, open for reading.
    container
        What :func:`container_of` found.
    wanted
        The user's choice.
    most_bytes
        Memory that a part of it may take; by default that of the machine.

    Raises
    ------
    InputError
        There is none, no such one, or several of which none is clearly the one with genes.
    """
    with one_line(path, f"{container.name} file"):
        held = root[container.group]
        names = sorted(name for name in held if _is_member(held[name]))
        if container is MUDATA:
            refuse_members(path, wanted._replace(modality=None))
        else:
            refuse_members(path, wanted._replace(table=None))
        asked = wanted.modality if container is MUDATA else wanted.table
        member = _choose(path, held, container, names, asked)
        return MemberFile(path, root, container, member, most_bytes)


def _choose(
    path: Path, held: Any, container: Container, names: list[str], asked: str | None
) -> str:
    if asked is not None:
        found = [name for name in names if name == asked]
    else:
        found = names if len(names) == 1 else [name for name in names if name.lower() in RNA]
        if len(found) != 1 and container is MUDATA:
            found = [name for name in names if _has_genes(held[name])]
    if len(found) == 1:
        return found[0]
    what = f"{path} is a {container.name} with {', '.join(names) or 'no AnnData'}"
    raise InputError(
        what if asked is None else f"{what}, and no '{asked}'",
        expected=f"one {container.option} with the counts of genes",
        do=f"say which with --{container.option} NAME",
    )


def _is_member(node: Any) -> bool:
    return hasattr(node, "keys") and {"obs", "var"} <= set(node)


def _has_genes(member: Any) -> bool:
    """Tell whether half of a modality's features, in one column, are known genes."""
    weigh(member["var"], "'var' of a modality", memory_of_machine())
    columns = string_columns(read_element(member["var"]))
    known = all_names()
    return any(2 * known_names(names, known) >= max(len(names), 1) for names in columns.values())
