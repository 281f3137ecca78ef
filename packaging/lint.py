"""Look at what ``render.py`` wrote, as the tools of the registries do, without a network.

python packaging/lint.py build/registries
"""

from __future__ import annotations

import sys
from pathlib import Path

from galaxy.tool_util.lint import NETWORK_LINTERS, LintLevel, lint_tool_source
from galaxy.tool_util.parser import get_tool_source
from rattler_build import PlatformConfig, RenderConfig, Stage0Recipe


def lint_galaxy(folder: Path) -> None:
    """Fail on an error or a warning of Galaxy's own linters, its schema among them."""
    for path in sorted(folder.glob("*.xml")):
        source = get_tool_source(str(path))
        if not lint_tool_source(
            source, level=LintLevel.WARN, fail_level=LintLevel.WARN, skip_types=NETWORK_LINTERS
        ):
            raise SystemExit(f"{path}: see above")


def render_recipe(path: Path) -> None:
    """Parse and render a recipe for conda-forge, and look at what would be built."""
    recipe = Stage0Recipe.from_file(path)
    platform = PlatformConfig(target_platform="linux-64")
    variants = recipe.render(None, RenderConfig(platform=platform))
    (package,) = [variant.recipe.package for variant in variants]
    print(f"{path}: {package.name} {package.version}")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    lint_galaxy(root / "galaxy")
    render_recipe(root / "conda" / "recipe.yaml")
