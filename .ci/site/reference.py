"""The API reference of the documentation site: `import wilson`, and one page per package, from the docstrings.

`write_reference` writes pages of autodoc's directives; `process_docstring` is autodoc's hook. Docstrings of this
project are Markdown, and a parameter is described by the comment on its line.
"""
from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from fastcore.docments import docments

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

import wilson  # noqa: E402
from wilson.core.params import Param  # noqa: E402
from wilson.run.config import describe  # noqa: E402

INTRODUCTION = """# API reference

[import wilson](wilson.md) documents the public API: notebooks and scripts need no other names. The other pages
document the public names of each package, for readers of its code and for contributors. Each module links to the
notebook that it is exported from.
"""
SOURCE = re.compile(r"File to edit: [./]*nbs/(\S+)\.ipynb")


def write_reference(
    target: Path,                 # the folder to write the pages into
    packages: Mapping[str, str],  # the title of each package
) -> None:
    "Write the pages of the API reference."
    target.mkdir()
    (target / "wilson.md").write_text(public_api(), encoding="utf-8")
    for package in packages:
        text = "\n".join([f"# wilson.{package}", "", *modules_of(package)])
        (target / f"{package}.md").write_text(text, encoding="utf-8")
    listed = [f"- [wilson.{package}]({package}.md): {title}" for package, title in packages.items()]
    contents = ["", "```{toctree}", ":hidden:", "", "wilson", *packages, "```", ""]
    (target / "index.md").write_text("\n".join([INTRODUCTION, *listed, *contents]), encoding="utf-8")


def public_api() -> str:
    "The page of `import wilson`: a list of its names, then each name."
    names = sorted(wilson.__all__, key=lambda name: (name[0].isupper(), name))
    values = {name: getattr(wilson, name) for name in names}
    summaries = {name: (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ") for name, value in values.items()}
    return "\n".join(["# import wilson", "",
                      *(f"- {{py:obj}}`wilson.{name}`: {text}" for name, text in summaries.items()), "",
                      "```{eval-rst}", ".. currentmodule:: wilson", "",
                      *(f"{directive(name, value)}\n" for name, value in values.items()), "```", ""])


def directive(name: str, value: Any) -> str:
    "The directive that documents a name of `import wilson`."
    if inspect.isclass(value) and value.__name__ != name:  # `param`, a class that is used as a function
        signature = inspect.signature(value)
        signature = signature.replace(parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()])
        body = [*as_rst((inspect.getdoc(value) or "").splitlines()), "", *fields(value)]
        return "\n".join([f".. py:function:: {name}{signature}", "", *(f"   {line}" for line in body)])
    return f".. autoclass:: {name}\n   :members:" if inspect.isclass(value) else f".. autofunction:: {name}"


def modules_of(package: str) -> list[str]:
    "A heading, a link to the notebook and autodoc's directive for each module, in the order of the notebooks."
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (REPO / "wilson" / package).glob("[!_]*.py")}
    sources = {module: SOURCE.search(text) for module, text in texts.items()}
    pages = {module: found[1] for module, found in sources.items() if found}
    lines = []
    for module, page in sorted(pages.items(), key=lambda item: item[1]):
        if public_names(texts[module]):
            lines += [f"## {module}", "", f"Exported from [nbs/{page}.ipynb](../{page}.ipynb).", "", "```{eval-rst}",
                      f".. automodule:: wilson.{package}.{module}", "   :members:", "```", ""]
    return lines


def public_names(source: str) -> list[str]:
    "The names in `__all__` of a module's source."
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def process_docstring(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    "Replace a Markdown docstring by reStructuredText with a list of parameters."
    lines[:] = as_rst(lines)
    if what in ("function", "method", "class"):
        lines += ["", *fields(value), ""]


def as_rst(lines: list[str]) -> list[str]:
    "Markdown as reStructuredText: code in backticks; `>>>` examples stay as they are."
    result, in_example = [], False
    for line in lines:
        in_example = line.lstrip().startswith(">>>") or in_example and bool(line.strip())
        result.append(line if in_example else escaped(line))
    return result


def escaped(text: str) -> str:
    "A line with code as literals, and without characters that have a meaning in reStructuredText."
    parts = re.split(r"`+([^`]+)`+", text)
    return "".join(f"``{part}``" if i % 2 else re.sub(r"([\\*|_`])", r"\\\1", part) for i, part in enumerate(parts))


def fields(value: Any) -> list[str]:
    "A field list of the parameters and the returned value, from the comments on their lines and from `param()`."
    # the fields of a dataclass may be defined in its bases
    owners = [c for c in reversed(value.__mro__) if is_dataclass(c)] if inspect.isclass(value) and is_dataclass(value) else [value]
    texts: dict[str, str] = {}
    for owner in owners:
        with suppress(TypeError, ValueError, OSError, KeyError, SyntaxError):  # no source, such as a builtin
            described = docments(owner, full=True, eval_str=False)
            texts |= {name: " ".join(str(about.docment).split()) for name, about in described.items()
                      if getattr(about, "docment", None)}
    if inspect.isclass(value):
        texts |= {name: f"{describe(p)}; default: {p.default!r}" for name, p in vars(value).items() if isinstance(p, Param)}
    returned = texts.pop("return", "")
    lines = [f":param {name}: {escaped(text)}" for name, text in texts.items() if not name.startswith("_")]
    return lines + [f":returns: {escaped(returned)}"] * bool(returned)
