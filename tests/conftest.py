"""A small root with data to train on, and skips that count as failures under WILSON_STRICT=1."""
from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from wilson import testing

REPO = Path(__file__).resolve().parents[1]
HELPERS = REPO / "tests/helpers"  # modules that several tests share; no test imports from another one
sys.path.append(str(HELPERS))
STRICT = os.environ.get("WILSON_STRICT") == "1"
FLOAT32 = "AVX512_CORE_BF16"  # oneDNN without AMX: precision=auto is float32 on every processor
THREADS = 1  # images are small: more threads only wait for each other

# what makes a step of the demo data take a second: two classes, one epoch, small crops
QUICK = ("--dataset", "shapes", "--data-root", "data/few", "--task", "striped disc|dotted square", "--epochs", "1",
         "--crop-size", "48", "--batch-size", "8", "--pseudo-epoch", "0", "--device", "cpu")
QUICK_PARAMETERS = {name.removeprefix("--").replace("-", "_"): value for name, value in zip(QUICK[::2], QUICK[1::2])}


def need(condition: object, reason: str) -> None:
    "Skip where `condition` is not given, with the reason; under WILSON_STRICT=1 fail."
    if not condition:
        (pytest.fail if STRICT else pytest.skip)(reason)


# ------------------------------------------------------------------------------------- hooks


def pytest_configure(config):
    # hashes of code that tests train with are not the developer's business
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="wilson-tests-")
    config.addinivalue_line("markers", "gpu: needs a GPU; skipped without one, even under WILSON_STRICT=1")
    # torchvision announces a successor of its decoder at every image
    config.addinivalue_line("filterwarnings", "ignore:The image decoding and encoding capabilities:DeprecationWarning")
    torch.set_num_threads(THREADS)
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # else a training would look for free processors
    os.environ["ONEDNN_MAX_CPU_ISA"] = FLOAT32


def pytest_collection_modifyitems(items):
    # the slowest files first: in two processes, none of them is left to run alone at the end
    items.sort(key=lambda item: REPO / "tests/system" not in item.path.parents)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def _failed_instead(report, reason):
    report.outcome = "failed"
    report.longrepr = f"skipped, and WILSON_STRICT=1 allows no skip: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail") and not item.get_closest_marker("gpu"):
        _failed_instead(report, call.excinfo.value if call.excinfo else report.longrepr)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if STRICT and report.skipped:
        _failed_instead(report, report.longrepr)
    return report


# ---------------------------------------------------------------------------------- fixtures


@pytest.fixture(autouse=True)
def seeded() -> None:
    "Chance is the same in every run: a test that fails by lot says nothing."
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def same_working_directory() -> Iterator[None]:
    "A test that leaves the working directory fails itself, not all that come after it in folders that are removed."
    before = Path.cwd()
    yield
    try:
        after = Path.cwd()
    finally:
        os.chdir(before)
    assert after == before, f"the test left {before} for {after}; use monkeypatch.chdir"


@pytest.fixture(scope="session")
def shared() -> Path:
    "The folder beside the repository with recorded results and real images; a user's clone has none."
    folder = REPO.parent / "shared"
    need(folder.is_dir(), f"needs {Path('..', 'shared')}, which is not there")
    return folder


@pytest.fixture(scope="session")
def small_root(tmp_path_factory) -> Path:
    "A root folder with the workbench notebooks and a small part of the demo data. Copy it to write in it."
    root = tmp_path_factory.mktemp("small") / "root"
    (root / "nbs/guide").mkdir(parents=True)
    shutil.copy(REPO / "settings.ini", root)
    for notebook in [*(REPO / "nbs").glob("*.ipynb"), *(REPO / "nbs/guide").glob("*.ipynb")]:
        shutil.copy(notebook, root / notebook.relative_to(REPO))
    testing.demo_data(root / "data" / "few", n_train=160, n_val=16)
    return root


@pytest.fixture
def root(small_root, tmp_path, monkeypatch) -> Path:
    "A root folder of the test's own, and the working directory."
    copy = tmp_path / "root"
    shutil.copytree(small_root, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture(scope="session")
def tiny_run(small_root, tmp_path_factory) -> Path:
    "A root where `QUICK` is trained, base and step 1: once for all tests and pages. Copy it to write in it."
    root = tmp_path_factory.mktemp("tiny") / "root"
    shutil.copytree(small_root, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        testing.tiny_run(QUICK_PARAMETERS)
    return root


@pytest.fixture
def quick_root(tiny_run, tmp_path, monkeypatch) -> Path:
    "A copy of the root where `QUICK` is trained, and the working directory."
    shutil.copytree(tiny_run, tmp_path / "root", symlinks=True)
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


# --------------------------------------------------------------------------------- processes


def environment(**more: str) -> dict[str, str]:
    "What a process of the tests gets: this wilson, few threads, nothing of pytest."
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("PYTEST_", "IN_TEST"))}
    return kept | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": str(THREADS), "PYTHONUNBUFFERED": "1",
                   "PYTHONDONTWRITEBYTECODE": "1"} | more


def started(arguments, cwd: Path, **more) -> subprocess.Popen:
    "`wilson …` as a process in `cwd`."
    return subprocess.Popen([sys.executable, "-m", "wilson", *map(str, arguments)], cwd=cwd, text=True, encoding="utf-8",
                            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def wilson(arguments, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess:
    "`wilson …` run to its end in `cwd`."
    process = started(arguments, cwd)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def waited(condition: Callable[[], object], what: str, seconds: float):
    "What the condition gives as soon as it gives something."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    pytest.fail(f"{what}: not within {seconds:.0f} s")


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    "The processes that a process has started, and those that they have."
    return psutil.Process(process.pid).children(recursive=True)


def ranks(process: subprocess.Popen) -> list[psutil.Process]:
    "Those of them that train."
    found = []
    for child in descendants(process):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if any("spawn_main" in part for part in child.cmdline()):
                found.append(child)
    return found


def gone(processes: list[psutil.Process]) -> bool:
    "Whether all have ended."
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


def wait_for(condition, process, seconds: float = 60) -> None:
    "Wait until `condition()`; the process must go on meanwhile."
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


# ---------------------------------------------------------------------------------- files


class Hostile:
    "Unpickling it makes a file."

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
