"""Sphinx builds the site from the pages of this folder, the docstrings, and the result pages of the experiments."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import diswot_search

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
project = "diswot-search"
release = version = diswot_search.__version__
copyright = "the authors of diswot-search"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"diswot-search {release}"
html_show_sphinx = False

myst_heading_anchors = 3
default_role = "code"  # docstrings mark names with single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # a property may be listed as an attribute, too
napoleon_custom_sections = [("Names", "params_style")]


def copy_results(app: Sphinx) -> None:
    """The result pages lie beside the experiments, where their links work too; the site has a copy of them."""
    results = HERE / "results"
    shutil.rmtree(results, ignore_errors=True)
    shutil.copytree(HERE.parent / "experiments" / "results", results, ignore=shutil.ignore_patterns("README.md"))


def link_results(app: Sphinx, name: str, source: list[str]) -> None:
    """Point the links to result pages at their copies, and the results' links to the pages of the site back."""
    if name.startswith("results/"):
        source[0] = source[0].replace("](../../docs/", "](../")
    else:
        source[0] = re.sub(r"\]\(\.\./experiments/results/", "](results/", source[0])


def setup(app: Sphinx) -> None:
    """Registers the two steps."""
    app.connect("builder-inited", copy_results)
    app.connect("source-read", link_results)
