"""What is derived from the methods and parameters, written where a file needs it as text; run by `.ci/export.sh`.

- wilson/methods/builtin.json: the facts of the built-in methods, which `--help` reads without importing torch
- nbs/train.ipynb: the cell tagged `parameters`
- README.md: the table of methods, between its markers
- nbs/index.ipynb: the list of pages, by their titles
"""
from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
FACTS, TRAIN, README = ROOT / "wilson/methods/builtin.json", ROOT / "nbs/train.ipynb", ROOT / "README.md"
INDEX = ROOT / "nbs/index.ipynb"
PACKAGES = ("core", "labels", "data", "models", "loading", "inference", "formats", "datasets", "pseudo", "evidence", "checks", "levers", "methods", "evaluation", "engine", "loggers",
            "run", "experiments", "analysis", "deploy", "label_report", "new_class", "api", "widgets", "workbench", "cli",
            "guide")  # in the order in which they are read
TABLE = re.compile(r"(?<=<!-- methods: written by .ci/generate.py -->\n).*?(?=<!-- end of methods -->)", re.DOTALL)


def facts_text() -> str:
    "The facts of the built-in methods as JSON."
    from wilson.methods.builtin import METHODS
    from wilson.methods.facts import facts_as_json, facts_of_method
    facts = {name: facts_as_json(facts_of_method(method)) for name, method in METHODS.items()}
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


def parameters_cell() -> str:
    "The shared parameters with their defaults, and the parameters of all built-in methods as None."
    from wilson.core.params import params_of
    from wilson.methods.facts import builtin_facts
    from wilson.run.config import GROUPS, SHARED, describe
    lines: list[str] = []
    done: set[str] = set()
    for group in GROUPS:
        own = {n: p for n, p in params_of(group).items() if n not in done}
        lines += ["", f"# {(group.__doc__ or '')[0].lower()}{(group.__doc__ or '')[1:]}"]
        lines += [assignment(name, p.default, describe(p)) for name, p in own.items()]
        done |= {*own}
    lines += ["", "# the method; None: its own default"]
    by_name: dict[str, dict] = {}
    for method, facts in builtin_facts().items():
        for name, p in facts.params.items():
            if name not in SHARED:
                by_name.setdefault(name, {})[method] = p
    for name, params in by_name.items():
        defaults = ", ".join(f"{method} {p.default}" for method, p in params.items())
        lines.append(assignment(name, None, f"{describe(next(iter(params.values())))} ({defaults})"))
    return "\n".join(lines[1:])


def assignment(name: str, value: object, comment: str) -> str:
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    comment = comment.replace("=", " ")  # papermill does not know a parameter in whose line it sees two
    return f"{f'{name} = {text}':26} # {comment}"


def train_text() -> str:
    "The notebook of a training with its `parameters` cell."
    notebook = json.loads(TRAIN.read_text(encoding="utf-8"))
    cell, = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", ())]
    cell["source"] = parameters_cell().splitlines(keepends=True)
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def title_of(page: Path) -> str:
    "The first line of a page."
    return json.loads(page.read_text(encoding="utf-8"))["cells"][0]["source"][0].removeprefix("# ").strip()


def index_text() -> str:
    "The index with the list of pages."
    notebook = json.loads(INDEX.read_text(encoding="utf-8"))
    cell, = [c for c in notebook["cells"] if c["source"][0] == "## The pages\n"]
    folders = {name: sorted((ROOT / "nbs" / name).glob("*.ipynb")) for name in PACKAGES}
    folders["the workbench"] = [page for page in sorted((ROOT / "nbs").glob("*.ipynb")) if page != INDEX]
    lines = cell["source"][:3]
    for name, pages in folders.items():
        links = (f"[{title_of(page)}]({page.relative_to(ROOT / 'nbs').as_posix()})" for page in pages)
        lines.append(f"- **{name}**: {', '.join(links)}\n")
    cell["source"] = "".join(lines).rstrip("\n").splitlines(keepends=True)
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def readme_text() -> str:
    "README.md with the table of methods."
    from wilson.methods.facts import builtin_facts
    rows = ["| method | new classes learn from | what it is | paper | page |", "| --- | --- | --- | --- | --- |"]
    for name, facts in builtin_facts().items():
        module = facts.module.rpartition(".")[2]
        page, = (ROOT / "nbs/methods").glob(f"??_{module}.ipynb")
        title = title_of(page)
        paper = f"[{facts.paper}](https://arxiv.org/abs/{facts.paper})" if facts.paper else "–"
        rows.append(f"| `{name}` | {facts.supervision} | {facts.about.rstrip('.')} | {paper} | [{title}](nbs/methods/{page.name}) |")
    return TABLE.sub(lambda _: "\n".join(rows) + "\n", README.read_text(encoding="utf-8"))


if __name__ == "__main__":
    for file, text in ((FACTS, facts_text), (TRAIN, train_text), (README, readme_text), (INDEX, index_text)):
        file.write_text(text(), encoding="utf-8")  # the first is read by the others
