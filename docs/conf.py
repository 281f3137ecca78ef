"""Settings of the documentation site: sphinx-build -W --keep-going -b html docs build/docs."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

import scbignn_infer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = os.environ.get("SCBIGNN_REPOSITORY_URL", "").rstrip("/")
"""Where the source is to be read; links that leave docs/ lead there, or are plain text without."""

project = "scbignn-infer"
author = "The scbignn-infer authors"
version = release = scbignn_infer.__version__
project_copyright = author

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["build", "jupyter_execute"]
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_excludepatterns = [] if shutil.which("Rscript") else ["from_r.ipynb"]
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_output_stderr = "remove"
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
napoleon_google_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

nitpicky = True
nitpick_ignore_regex = [
    # The site is built without a network, so that names of other packages lead nowhere.
    (r"py:.*", r"(ad|anndata|np|numpy|sp|scipy|collections|pathlib|typing)\..*"),
    (r"py:.*", r"(Any|AnnData|Mapping|Path|Sequence|ndarray|str to Path|None)"),
    # Parts of signatures that are described where they are used.
    (
        r"py:class",
        r"(Array|Choice|Device|Estimate|FileQuery|GraphKind|MakeSession|Orientation|Progress|Query)",
    ),
    (
        r"py:class",
        r"(FoundTissue|Grouping|Mixtures|Ontology|Provenance|ReferenceBank|Tissues|Votes)",
    ),
    (
        r"py:.*",
        r"(choose_model|REASONS|scbignn_infer\.annotation\.(grouping|ontology|annotation)\.\w+)",
    ),
]


class LeaveDocs(SphinxTransform):
    """Turn links to files of the repository outside docs/ into links to it, or plain text."""

    default_priority = 500  # while pages are read, before files to download are collected

    def apply(self, **kwargs: Any) -> None:
        """Replace them; what does not exist is left, and warned of."""
        kinds = (addnodes.pending_xref, addnodes.download_reference)
        for node in list(self.document.findall(lambda n: isinstance(n, kinds))):
            target = str(node.get("reftarget", "")).partition("#")[0]
            name = f"{target}.md" if node.get("refdomain") == "doc" else target
            path = Path(self.env.srcdir, self.env.docname).parent.joinpath(name).resolve()
            if not path.exists() or path.is_relative_to(self.env.srcdir):
                continue
            found: nodes.TextElement = nodes.inline()
            if REPOSITORY and path.is_relative_to(ROOT):
                found = nodes.reference(refuri=f"{REPOSITORY}/blob/main/{path.relative_to(ROOT)}")
            found.extend(child.deepcopy() for child in node.children)
            node.replace_self(found)


def as_mathml(visitor: Any, node: nodes.math | nodes.math_block) -> None:
    """Write a formula in MathML, which browsers show without a script from the network."""
    block = isinstance(node, nodes.math_block)
    tag = "div" if block else "span"
    visitor.body.append(visitor.starttag(node, tag, "", CLASS="math"))
    formula = node.astext().replace(r"\dots", r"\ldots")  # the one that docutils knows
    # In LaTeX, an argument without braces is one digit, and an accent ends before a script.
    formula = re.sub(r"\\([dt]?frac)(\d)(\d)", r"\\\1{\2}{\3}", formula)
    formula = re.sub(r"([_^])(\d)(?=\d)", r"\1{\2}", formula)
    formula = re.sub(r"\\(bar|hat|tilde) (\w)(?=[_^])", r"\\\1 \2{}", formula)
    visitor.body.append(latex2mathml.tex2mathml(formula, as_block=block))
    visitor.body.append(f"</{tag}>")
    raise nodes.SkipNode


def find_public(app: Sphinx, env: Any, node: Any, content: Any) -> Any:
    """Find a name by where it is public, where a docstring says where it is defined."""
    parts = str(node.get("reftarget", "")).split(".")
    if node.get("refdomain") != "py" or parts[2:3] == [] or parts[2] not in scbignn_infer.__all__:
        return None
    target = ".".join([parts[0], *parts[2:]])
    domain, kind = env.domains.python_domain, node["reftype"]
    return domain.resolve_xref(env, node["refdoc"], app.builder, kind, target, node, content)


def setup(app: Sphinx) -> None:
    """Add what the extensions do not have."""
    app.add_transform(LeaveDocs)
    app.connect("missing-reference", find_public)
    app.add_html_math_renderer("mathml", (as_mathml, None), (as_mathml, None))
