"""Files that hold several AnnData: MuData (modalities) and SpatialData (tables)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from scbignn_infer.errors import InputError
from scbignn_infer.query.gene_names import all_names
from scbignn_infer.query.readers.anndata_files import AnnDataFile, read_element
from scbignn_infer.query.readers.bounds import memory_of_machine, weigh
from scbignn_infer.query.readers.columns import known_names, string_columns
from scbignn_infer.query.readers.files import one_line
from scbignn_infer.query.readers.query import RNA

if TYPE_CHECKING:
    import anndata as ad

    from scbignn_infer.query.readers.files import Source


class Container(NamedTuple):
    """A kind of file with several AnnData in a group, of which an option chooses one."""

    name: str
    group: str
    option: str


MUDATA = Container("MuData", "mod", "modality")
SPATIALDATA = Container("SpatialData", "tables", "table")
OLD_SPATIALDATA = Container("SpatialData", "table", "table")


class MemberFile(AnnDataFile):
    """One AnnData of a file that holds several: the user's choice, or the only one with genes."""

    def __init__(self, source: Source) -> None:
        container = containers_in(source.root)[0]
        self.kind = f"{container.name} file"
        with one_line(source.path, self.kind):
            refuse_choice(source, but=container)
            where = f"{container.group}/{_choose(source, container)}"
            super().__init__(source, source.root[where])
        self.name = f"{source.path} ({where})"

    def _whole(self) -> ad.AnnData:
        import anndata as ad

        weigh(self._group, self.name, self._most)
        member = read_element(self._group)
        if not isinstance(member, ad.AnnData):
            raise TypeError(f"{self.name} is no AnnData")
        return member


def containers_in(root: Any) -> list[Container]:
    """Return which kinds of container an open file or store is; none, where it is one AnnData."""
    if "mod" in root and (dict(root.attrs).get("encoding-type") == "MuData" or "X" not in root):
        return [MUDATA]
    if "obs" in root:
        return []
    return [kind for kind in (SPATIALDATA, OLD_SPATIALDATA) if kind.group in root]


def is_mudata(root: Any) -> bool:
    """Tell whether an open file or store holds modalities."""
    return containers_in(root) == [MUDATA]


def is_one_anndata(root: Any) -> bool:
    """Tell whether an open file or store holds cells at its root, and not in its parts."""
    return "obs" in root and not containers_in(root)


def refuse_choice(source: Source, *, but: Container | None = None) -> None:
    """Raise if a member was chosen of a file that holds no several, or of another kind."""
    for kind in (MUDATA, SPATIALDATA):
        member = getattr(source, kind.option)
        if member is not None and (but is None or kind.option != but.option):
            raise InputError(
                f"{source.path} is no {kind.name}, and '{member}' was asked for",
                expected=f"a {kind.name} file",
                do=f"leave out --{kind.option}",
            )


def _choose(source: Source, container: Container) -> str:
    held, asked = source.root[container.group], getattr(source, container.option)
    names: list[str] = sorted(name for name in held if _is_member(held[name]))
    fitting = [name for name in names if name == asked]
    if asked is None:
        fitting = names if len(names) == 1 else [name for name in names if name.lower() in RNA]
        if len(fitting) != 1 and container is MUDATA:
            fitting = [name for name in names if _has_genes(held[name])]
    if len(fitting) == 1:
        return fitting[0]
    what = f"{source.path} is a {container.name} with {', '.join(names) or 'no AnnData'}"
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
    genes = all_names()
    return any(2 * known_names(names, genes) >= max(len(names), 1) for names in columns.values())
