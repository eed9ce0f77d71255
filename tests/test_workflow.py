"""The workflow of hosted CI: every push runs what `.ci/run` runs, and a tag builds the distributions."""
from __future__ import annotations

import re

import pytest
import yaml
from conftest import REPO

FILES = sorted((REPO / ".github/workflows").glob("*.y*ml"))


class Unique(yaml.SafeLoader):
    "YAML in which no key is there twice, which would silently drop the first."

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len({*keys}), f"line {node.start_mark.line + 1}: a key is there twice"
        return super().construct_mapping(node, deep)


def read(text: str) -> dict:
    loaded = yaml.load(text, Unique)
    return {"on" if key is True else key: value for key, value in loaded.items()}  # YAML 1.1 takes `on` for a boolean


@pytest.fixture(scope="module")
def workflow() -> dict:
    file, = FILES
    return read(file.read_text(encoding="utf-8"))


def commands(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_every_push_runs_what_runs_here(workflow):
    push = workflow["on"]["push"]
    assert push["branches"] == ["**"] and push["tags"] == ["v*"] and "pull_request" in workflow["on"]
    test = workflow["jobs"]["test"]
    assert commands(test) == ["bash .ci/run"] and "if" not in test and (REPO / ".ci/run").is_file()


def test_a_tag_builds_and_keeps_the_distributions(workflow):
    dist = workflow["jobs"]["dist"]
    assert dist["if"] == "startsWith(github.ref, 'refs/tags/v')" and dist["needs"] == "test" and commands(dist) == ["make dist"]
    assert re.search("^dist: setup", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    upload, = (step for step in dist["steps"] if step.get("uses", "").startswith("actions/upload-artifact@"))
    assert upload["with"]["path"] == "dist/*" and upload["with"]["if-no-files-found"] == "error"


def test_jobs_are_complete(workflow):
    "Each names its machine and ends; actions have a version, the Python is one that constraints.txt serves, and nothing may be written."
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job["runs-on"] and 0 < job["timeout-minutes"] <= 360 and job["steps"][0]["uses"].startswith("actions/checkout@"), name
        assert all(("uses" in step) != ("run" in step) for step in job["steps"]), name
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step), name
        python, = (step["with"]["python-version"] for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python@"))
        assert isinstance(python, str), "3.10 without quotes is 3.1"
        assert tuple(map(int, python.split("."))) >= (3, 11), name
        assert {*([job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", []))} <= workflow["jobs"].keys(), name


def test_a_key_twice_is_found():
    with pytest.raises(AssertionError, match="twice"):
        read("jobs: {a: 1, a: 2}\n")
