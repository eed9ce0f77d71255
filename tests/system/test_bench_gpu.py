"""benchmarks/bench_gpu.sh on the CPU at a small size: the script that a GPU waits for must still run on the day there is one."""
from __future__ import annotations

import json
import subprocess

from conftest import REPO, environment


def test_every_part_runs(tmp_path):
    done = subprocess.run(["bash", str(REPO / "benchmarks/bench_gpu.sh")], env=environment(SMALL="1", OUT=str(tmp_path)), capture_output=True,
                          text=True, encoding="utf-8", timeout=900)
    assert done.returncode == 0 and "failed" not in done.stderr, done.stdout[-3000:] + done.stderr[-3000:]
    assert {file.stem for file in tmp_path.glob("*.txt")} == {"refinement", "losses", "stages", "tries"}
    assert "× leaner" in (tmp_path / "refinement.txt").read_text(encoding="utf-8")
    assert "of the memory" in (tmp_path / "losses.txt").read_text(encoding="utf-8")
    assert "bf16" in (tmp_path / "tries.txt").read_text(encoding="utf-8")
    assert {"stages", "scaling", "evaluation"} & json.loads((tmp_path / "stages.json").read_text(encoding="utf-8")).keys()


def test_a_part_that_fails_is_named_and_the_others_go_on(tmp_path):
    "Here the comparison with the published implementation, of which there is no checkout; parts that take long are replaced."
    script = (REPO / "benchmarks/bench_gpu.sh").read_text(encoding="utf-8")
    quick = "\n".join(line.replace("python benchmarks/bench_pamr.py", "echo").replace("python benchmarks/bench_losses.py", "echo")
                      .replace("python -m papermill", "echo") for line in script.splitlines())
    quick = quick.replace('cd "$(dirname "$0")/.."', f'cd "{REPO}"')
    (tmp_path / "quick.sh").write_text(quick, encoding="utf-8")
    done = subprocess.run(["bash", str(tmp_path / "quick.sh"), str(tmp_path / "nowhere")], env=environment(SMALL="1", OUT=str(tmp_path / "out")),
                          capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 1 and "beside failed" in done.stderr and "All in" in done.stdout, done.stdout + done.stderr
