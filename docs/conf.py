"""Sphinx configuration; ``make docs`` builds with every warning an error."""

import atexit
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import graph_renderer  # noqa: E402 - own extension, found through the line above
from nipype import logging as nipype_logging  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

from pds_bids import __version__  # noqa: E402

# Builders of workflows read settings; none of this may touch the home folder or the network.
os.environ.setdefault("NIPYPE_NO_ET", "1")
os.environ.setdefault("NO_ET", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TEMPLATEFLOW_AUTOUPDATE", "0")
nipype_logging.getLogger("nipype.workflow").setLevel("WARNING")

project = "pds-bids"
author = "The pds-bids developers"
project_copyright = "2026, the pds-bids developers"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "math_elements",
    "sphinx_copybutton",
    "nipype.sphinxext.plot_workflow",
    "usage",
    "model_card",
]
# Short names of classes occur in several modules; Sphinx then links to the first.
suppress_warnings = ["ref.python"]
# Typographic quotes and dashes would spoil commands and JSON that readers copy.
smartquotes = False
root_doc = "index"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "_ext", "_templates"]
templates_path = ["_templates"]
default_role = "py:obj"
# Types in docstrings ("ndarray", "array-like") are prose; references to pages and options are checked.
nitpick_ignore_regex = [("py:.*", ".*")]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# A URL in a page is a link only when it is written as one.
myst_url_schemes = ("http", "https", "mailto")

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# The sections that builders of Nipype workflows add.
napoleon_custom_sections = [("Inputs", "params_style"), ("Outputs", "params_style")]

# Graphs of workflows: an SVG each, drawn by Graphviz or, where `dot` is missing, by Graphviz as WebAssembly.
wf_formats = ["svg"]
wf_html_show_formats = False
# Nipype's own template also names PNG files for formats of documents that are not built here.
wf_template = """
{% for img in images %}
.. figure:: {{ build_dir }}/{{ img.basename }}.{{ default_fmt }}
{%- for option in options %}
   {{ option }}
{%- endfor %}
{% endfor %}
"""
wf_html_show_source_link = False
scratch = tempfile.mkdtemp(prefix="pds-bids-docs-")
atexit.register(shutil.rmtree, scratch, ignore_errors=True)
wf_working_directory = scratch
# The examples name scans that Nipype wants to see; nothing reads them.
for name in (
    "sub-01_task-rest_bold.nii.gz",
    "sub-01_dwi.nii.gz",
    "sub-01_T1w.nii.gz",
    "dwi.bval",
    "dwi.bvec",
):
    Path(wf_working_directory, name).touch()
for role in ("series", "mask", "confounds", "anat"):
    Path(wf_working_directory, role).touch()
if shutil.which("dot") is None:
    graph_renderer.provide_dot(Path(scratch, "bin"))

html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"pds-bids {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False

copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True


def skip_generated(
    _app: Sphinx, _what: str, name: str, _member: object, _skip: bool, _options: object
) -> bool | None:
    """Leave out the methods that scikit-learn adds to every estimator; they link to its own pages."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app: Sphinx) -> None:
    """Register what is not an extension."""
    app.connect("autodoc-skip-member", skip_generated)
