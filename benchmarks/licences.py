"""List what the runtime depends on, with versions and licences as package metadata have them.

Run: ``python benchmarks/licences.py`` in an environment with the package; prints Markdown.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution, requires

NAME = re.compile(r"[A-Za-z0-9._-]+")


def needed(name: str, found: dict[str, tuple[str, str]]) -> None:
    """Add a package and what it requires without extras, as far as it is installed."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found:
        return
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return
    fields = package.metadata
    classified = [
        c.split(" :: ")[-1]
        for c in fields.get_all("Classifier") or []
        if c.startswith("License ::")
    ]
    text = (fields["License"] or "").splitlines()[:1]
    found[key] = (
        package.version,
        fields["License-Expression"] or ", ".join(classified) or "".join(text) or "not said",
    )
    for requirement in requires(name) or []:
        wanted = NAME.match(requirement)
        if wanted and "extra ==" not in requirement:
            needed(wanted.group(), found)


def main() -> None:
    """Print a table."""
    found: dict[str, tuple[str, str]] = {}
    needed("scbignn-infer", found)
    print("| package | version | licence |\n|---|---|---|")
    for name, (version, licence) in sorted(found.items()):
        print(f"| {name} | {version} | {licence} |")


if __name__ == "__main__":
    main()
