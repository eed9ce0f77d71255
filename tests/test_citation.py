"""CITATION.cff: the keys that the format requires, and the same version and paper as elsewhere."""
from __future__ import annotations

import configparser

import yaml
from conftest import REPO


def test_citation_is_whole_and_in_step():
    cited = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited), "keys required by Citation File Format 1.2.0"
    settings = configparser.ConfigParser()
    settings.read(REPO / "settings.ini")
    assert str(cited["version"]) == settings["DEFAULT"]["version"]
    paper = cited["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper), "keys required of a reference"
    assert [a["family-names"] for a in paper["authors"]] == ["Cermelli", "Fontanel", "Tavera", "Ciccone", "Caputo"]
    assert paper["url"] in (REPO / "README.md").read_text(encoding="utf-8")
