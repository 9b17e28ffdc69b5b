"""Sphinx configuration: `sphinx-build -W --keep-going docs build/docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from command_reference import write_command_reference

from s2t_ext import __version__

project = "s2t_ext"
author = "The s2t_ext authors"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["README.md"]
html_theme = "furo"
html_title = f"s2t_ext {release}"
html_static_path = ["_static"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Links into other projects' pages need the network: only where it is asked for (`-D` or -t links).
intersphinx_mapping = {}
if tags.has("links"):  # noqa: F821 - Sphinx provides it
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }


def setup(app):
    """Writes the command line reference from the commands themselves."""
    app.connect("builder-inited", lambda app: write_command_reference(Path(app.srcdir) / "cli.md"))
