"""The sources of the documentation site from the notebooks: `python .ci/site/pages.py FOLDER [PAGE …]`.

A copy of `nbs/` in which nbdev's directives are gone, cells that take long are left unrun, and a table of contents leads to every page.
The API reference is written beside them (`reference.py`).
Where pages are named (`index`, `data/01_tasks`), they alone are run when the site is built; else all are.
"""
from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from reference import write_reference

REPO = Path(__file__).resolve().parents[2]
WORKBENCH = ("train", "explore", "prepare", "sweep", "compare")
PACKAGES = {"core": "Core",
            "labels": "Labels",
            "data": "Data",
            "models": "Models",
            "loading": "Loading",
            "inference": "Inference",
            "formats": "Formats",
            "datasets": "Datasets",
            "pseudo": "Pseudo-labels",
            "evidence": "Evidence from outside",
            "checks": "Checks",
            "levers": "Levers",
            "methods": "Methods",
            "evaluation": "Evaluation",
            "engine": "Engine",
            "loggers": "Loggers",
            "run": "Run",
            "experiments": "Experiments",
            "analysis": "Analysis",
            "deploy": "Models for other programs",
            "label_report": "Report without masks",
            "new_class": "One more class",
            "api": "Python API",
            "widgets": "Widgets",
            "workbench": "The workbench",
            "cli": "Command line"}
TEXTS = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}


def without_directives(cell: dict) -> dict:
    "A code cell as a reader wants it."
    lines = "".join(cell["source"]).splitlines(keepends=True)
    words = {word for line in lines if line.startswith("#|") for word in line[2:].replace(":", " ").split()}
    cell["source"] = [line for line in lines if not line.startswith("#|")]
    tags = ["skip-execution"] if words & {"slow", "eval"} else []
    if "default_exp" in words:
        tags.append("remove-cell")
    elif all(re.match(r"from |import |[ )\w,]*$", line) for line in cell["source"]):  # nothing but imports
        tags.append("hide-input")
    cell["metadata"] = {"tags": tags}
    if "skip-execution" not in tags:  # what is not run keeps the outputs that are stored with it
        cell["outputs"] = []
    cell["execution_count"] = None
    return cell


def contents() -> str:
    "Hidden tables of contents, one per package."
    parts = {"Workbench": list(WORKBENCH), "Guide": sorted(f"guide/{p.stem}" for p in REPO.glob("nbs/guide/*.ipynb"))}
    for package, title in PACKAGES.items():
        parts[title] = sorted(f"{package}/{p.stem}" for p in REPO.glob(f"nbs/{package}/*.ipynb"))
    parts["Reference"] = ["reference/index"]
    parts["The project"] = ["testing", *(Path(name).stem for name in TEXTS.values())]
    return "\n\n".join("\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```"])
                       for title, pages in parts.items())


def main(target: Path, run: list[str]) -> None:
    known = {str(p.relative_to(REPO / "nbs").with_suffix("")) for p in REPO.glob("nbs/**/*.ipynb")}
    if unknown := sorted({*run} - known):
        sys.exit(f"There is no page {', '.join(unknown)} in nbs/; expected names such as index or data/01_tasks.")
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(REPO / "nbs", target, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "*-checkpoint.ipynb"))
    for path in target.rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"] = [without_directives(c) if c["cell_type"] == "code" else c for c in notebook["cells"]]
        if path == target / "index.ipynb":
            notebook["cells"].append({"cell_type": "markdown", "id": "contents", "metadata": {}, "source": contents()})
        if run and str(path.relative_to(target).with_suffix("")) not in run:
            notebook["metadata"]["mystnb"] = {"execution_mode": "off"}
        text = json.dumps(notebook, ensure_ascii=False).replace("](../../wilson/widgets/browser/", "](browser/")
        path.write_text(text, encoding="utf-8")
    shutil.copytree(REPO / "wilson/widgets/browser", target / "widgets/browser")
    write_reference(target / "reference", PACKAGES)
    for name, page in TEXTS.items():
        text = (REPO / name).read_text(encoding="utf-8")
        linked = re.sub(r"\]\((\w+\.md)\)", lambda link: f"]({TEXTS.get(link[1], link[1])})", text)  # to each other
        (target / page).write_text(re.sub(r"\]\(nbs/", "](", linked), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
