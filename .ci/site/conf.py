"""Sphinx's settings for the documentation site: nothing in it is fetched, neither when it is built nor when it is read."""
import configparser
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).parent))
from reference import process_docstring  # noqa: E402

settings = configparser.ConfigParser()
settings.read(Path(__file__).parents[2] / "settings.ini", encoding="utf-8")

project, author = settings["DEFAULT"]["title"], settings["DEFAULT"]["author"]
copyright = author  # noqa: A001
version = release = settings["DEFAULT"]["version"]
extensions = ["myst_nb", "sphinx.ext.autodoc"]
autodoc_member_order, autodoc_typehints_format = "bysource", "short"
toc_object_entries = False  # else every menu is built from all names
python_use_unqualified_type_names, add_module_names, maximum_signature_line_length = True, False, 80
nitpick_ignore_regex = [(r"py:.*", r".*")]  # types of other libraries; links of the prose stay strict
suppress_warnings = ["ref.python"]  # a method's name in a signature may be that of several classes
html_theme, html_title = "furo", "wilson"
html_theme_options = {"light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"}}
html_static_path, html_css_files = ["static"], ["site.css"]
html_show_sourcelink = html_copy_source = False
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_heading_slug_func = "conf.anchor"  # as JupyterLab makes them
nb_execution_mode, nb_execution_timeout, nb_execution_raise_on_error = "force", 600, True
nb_execution_show_tb = True
nb_ipywidgets_js: dict = {}  # a widget lives by its kernel; here stands what it says as text
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
nb_code_prompt_show = nb_code_prompt_hide = "Imports"  # no other cells are folded
nb_output_stderr, nb_merge_streams = "remove", True


def anchor(title: str) -> str:
    return title.replace(" ", "-")


def inline_math(writer, node) -> None:
    "As MathML, which browsers draw themselves."
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block_math(writer, node) -> None:
    writer.body.append(convert(node.astext(), display="block"))
    raise nodes.SkipNode


def setup(app) -> None:
    app.connect("autodoc-process-docstring", process_docstring)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
