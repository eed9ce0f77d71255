"""Lists and tables of runs execute no file that a run names, and list the run all the same."""
from __future__ import annotations

import json
import shutil

import pytest

from wilson.analysis.run_list import run_list, run_text
from wilson.analysis.tables import to_markdown, score_table
from wilson.run.records import read_records, group_variants

BAD = "from pathlib import Path\nPath('executed').touch()\n"


@pytest.mark.parametrize("is_there", [True, False], ids=["there", "gone"])
@pytest.mark.parametrize("name", ["method", "backbone", "dataset", "metrics", "callbacks"])
def test_a_class_in_a_file_of_a_run(name, is_there, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.ini").touch()
    shutil.copytree(tiny_run / "runs", "runs", ignore=shutil.ignore_patterns("*.safetensors", "events*", "maps", "cache"))
    if is_there:
        (tmp_path / "bad.py").write_text(BAD, encoding="utf-8")
    for file in (tmp_path / "runs").glob("*/*/step*/config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        config["parameters"][name] = "bad.py:Mine"
        if name in config["identity"]:
            config["identity"][name] = "bad.py:Mine"
        file.write_text(json.dumps(config), encoding="utf-8")
    records = read_records()
    found, = group_variants(records).values()
    assert len(records) == 2 and run_text(run_list()).count("finished") == 2
    assert "mean IoU in %" in to_markdown(score_table(found))
    assert not (tmp_path / "executed").exists() and "left out" not in capsys.readouterr().out
