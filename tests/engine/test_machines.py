"""GPUs, processes and servers as machines have them: names of GPUs, launchers that are killed, addresses and prefixes."""
from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from conftest import REPO, descendants, environment, gone, wait_for

from wilson.core import distributed as ranks
from wilson.core.distributed import process_group, is_torchelastic_launched
from wilson.core.errors import InputError
from wilson.engine.devices import choose_device
from wilson.engine.gpus import start_gpu, visible_gpus
from wilson.engine.launch import launch
from wilson.engine.step_folder import StepFolder
from wilson.experiments import train as train_module
from wilson.experiments.start import local_world_size
from wilson.experiments.plan import Job
from wilson.experiments.sweep import run_sweep, divide_gpus, start_job
from wilson.run.config import parse_config
from wilson.run.presets import resolve_config

# a step that takes minutes, with a state after every other update
LONG = ("train", "--dataset", "shapes", "--data-root", "data/few", "--task", "striped disc,plain cross|checkered cross",
        "--epochs", "500", "--crop-size", "48", "--batch-size", "4", "--val-interval", "500", "--device", "cpu",
        "--save-minutes", "1e-9", "--step", "0")
STEP = Path("runs/shapes-striped_disc+plain_cross__checkered_cross-overlap/base-s42/step0")


# ------------------------------------------------------------------------- launchers that are killed


@contextlib.contextmanager
def training(root: Path, *command: str, **more: str):
    "A training of two ranks that is in its first epochs: the launcher, its ranks, and a file of what they say."
    said = root / "said.txt"
    state = root / STEP / "last.pt"
    before = state.stat().st_mtime_ns if state.exists() else 0
    with open(said, "w", encoding="utf-8") as out:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=root, env=environment(**more), stdout=out, stderr=out,
                                   start_new_session=True)
    ranks: list[psutil.Process] = []
    try:
        wait_for(lambda: state.exists() and state.stat().st_mtime_ns > before, process, 120)
        ranks = [p for p in descendants(process) if {"wilson", "--multiprocessing-fork"} & set(p.cmdline())]
        assert len(ranks) == 2, said.read_text(encoding="utf-8")
        yield process, ranks, said
    finally:
        for one in (process, *ranks):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                one.kill()
        process.wait()


def within(seconds: float, ranks: list[psutil.Process]) -> bool:
    until = time.monotonic() + seconds
    while not gone(ranks) and time.monotonic() < until:
        time.sleep(0.05)
    return gone(ranks)


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "wilson", *LONG)


def test_torchrun_is_asked_to_end_and_then_killed(root):
    "SIGTERM to torchrun, then kill -9 while a rank is stopped: each time the state is saved and no rank is left."
    with training(root, *TORCHRUN) as (agent, ranks, said):
        agent.send_signal(signal.SIGTERM)
        assert within(20, ranks), said.read_text(encoding="utf-8")
        agent.wait(20)
    status = StepFolder(root / STEP).read("status.json")
    assert status["state"] == "interrupted" and "by SIGTERM" in status["reason"]
    done = torch.load(root / STEP / "last.pt", weights_only=True)

    with training(root, *TORCHRUN, RANK="7", WORLD_SIZE="9", MASTER_ADDR="nowhere.invalid") as (agent, ranks, said):
        text = said.read_text(encoding="utf-8")
        assert f"going on from epoch {done['epoch'] + 1}" in text, text
        ranks[1].send_signal(signal.SIGSTOP)
        agent.kill()
        agent.wait()
        assert within(20, ranks), said.read_text(encoding="utf-8")
    assert StepFolder(root / STEP).state == "interrupted"


def test_the_process_that_waits_for_its_ranks_is_killed(root):
    "Also of `nproc`: ranks that nobody waits for any more save and end, even a stopped one."
    with training(root, "wilson", *LONG, "--nproc", "2") as (starter, ranks, said):
        ranks[1].send_signal(signal.SIGSTOP)
        starter.kill()
        starter.wait()
        assert within(20, ranks), said.read_text(encoding="utf-8")
    status = StepFolder(root / STEP).read("status.json")
    assert status["state"] == "interrupted" and "after update" in status["reason"] and "at once" not in status["reason"]


def test_a_rank_that_ends_without_an_answer_says_so(tmp_path):
    "What torchrun's rank records when its time after SIGTERM is over: of the step that it trains, and no other."
    ours, finished, theirs = (StepFolder(tmp_path / name) for name in ("ours", "finished", "theirs"))
    for folder, state in ((ours, "running"), (finished, "finished"), (theirs, "running")):
        folder.path.mkdir()
        folder.set_state(state)
    theirs.write("status.json", theirs.read("status.json") | {"pid": os.getpid() + 1})
    train_module._recorded_by_rank(signal.SIGTERM, [StepFolder(tmp_path / "not begun"), ours, finished, theirs])
    assert [folder.state for folder in (ours, finished, theirs)] == ["interrupted", "finished", "running"]
    assert "by SIGTERM" in ours.read("status.json")["reason"]


# -------------------------------------------------------------------------------- names of GPUs


@pytest.fixture
def gpus(monkeypatch):
    "A machine with `n` GPUs as torch would count them, of which a list leaves some."
    def machine(listed: str | None, n: int, variable: str = "CUDA_VISIBLE_DEVICES", usable: bool = True) -> None:
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "RANK", "TORCHELASTIC_RUN_ID"):
            monkeypatch.delenv(name, raising=False)
        if listed is not None:
            monkeypatch.setenv(variable, listed)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0 and usable)
        monkeypatch.setattr(torch.version, "hip", "6.2" if variable.startswith("HIP") else None)
        monkeypatch.setattr("wilson.engine.devices.start_gpu", lambda device: None)
    return machine


# the list, how many of a machine's four GPUs CUDA then shows, and what two jobs of a sweep see
LISTS = {
    "not set": (None, 4, ["0,2", "1,3"]),
    "numbers": ("2,3", 2, ["2", "3"]),
    "blanks": (" 2 , 3 ", 2, ["2", "3"]),
    "a trailing comma": ("2,3,", 2, ["2", "3"]),
    "UUIDs": ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,GPU-1f0", 2, ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-1f0"]),
    "MIG by UUID": ("MIG-89c850dc,MIG-f2b5fbbd", 1, ["MIG-89c850dc", "MIG-f2b5fbbd"]),
    "MIG by numbers": ("MIG-GPU-5c89/1/0,MIG-GPU-5c89/2/0", 1, ["MIG-GPU-5c89/1/0", "MIG-GPU-5c89/2/0"]),
    "more MIG than jobs": ("MIG-a,MIG-b,MIG-c", 1, ["MIG-a", "MIG-b"]),
    "one that is not there": ("0,9,1", 1, ["0", "0"]),
    "an empty one": ("1,,0", 1, ["1", "1"]),
    "a word": ("1,gpu,0", 1, ["1", "1"]),
    "numbers, then a UUID": ("0,GPU-1f0", 1, ["0", "0"]),
    "-1 in the middle": ("0,-1,1", 1, ["0", "0"]),
    "empty": ("", 0, [None, None]),
    "-1": ("-1", 0, [None, None]),
    "NoDevFiles": ("NoDevFiles", 0, [None, None]),
}


@pytest.mark.parametrize("case", LISTS)
def test_gpus_are_those_that_cuda_shows(case, gpus, capsys):
    "Dealt out as they were written; as many processes as CUDA shows; a line about what it ignores."
    listed, n, jobs = LISTS[case]
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        gpus(listed, n, variable)
        assert divide_gpus(visible_gpus(), 2) == jobs
        config = resolve_config(parse_config({"batch_size": 12}), "shapes")
        assert local_world_size(config) == max(1, n) and choose_device("auto").type == ("cuda" if n else "cpu")
        said = capsys.readouterr().out
        assert ("CUDA ignores" in said) == (case in ("one that is not there", "an empty one", "a word", "numbers, then a UUID",
                                                     "-1 in the middle")), said
        if n:
            with pytest.raises(InputError, match=f"cuda:{n}.*{n} GPU.*cuda:0, auto or cpu"):
                choose_device(f"cuda:{n}")
        else:
            with pytest.raises(InputError, match=f"no GPUs by {variable}=.*use auto or cpu"):
                choose_device("cuda")
        with pytest.raises(InputError, match=f"at most nproc={n}|a pass has"):
            local_world_size(replace(config, nproc=n + 1 if n else 13))
        if n:  # the advice works
            assert local_world_size(replace(config, nproc=n)) == n


@pytest.mark.parametrize("listed", ["0,0", "1, 01", "GPU-1f0,GPU-1f0", "MIG-a,MIG-a"])
def test_a_gpu_that_is_named_twice_is_refused(listed, gpus):
    "CUDA shows none then: training would take the processor without a word."
    gpus(listed, 0)
    for ask in (visible_gpus, lambda: local_world_size(resolve_config(parse_config({}), "shapes")), lambda: choose_device("cuda")):
        with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=.* twice"):
            ask()
    assert local_world_size(resolve_config(parse_config({"device": "cpu"}), "shapes")) == 1


def test_jobs_get_the_variable_of_their_gpus(gpus, tmp_path, monkeypatch):
    "As it was written, quoted in the log where a shell needs it; a sweep on the processor asks for no GPU."
    given = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **more: given.append(env))
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        gpus("MIG-GPU-5c89/1/0,MIG-GPU-5c89/2/0", 1, variable)
        start_job(Job("a", {}), tmp_path / "a.log", 1, divide_gpus(visible_gpus(), 2)[1])
        assert given[-1][variable] == "MIG-GPU-5c89/2/0"
        assert f"$ {variable}=MIG-GPU-5c89/2/0 wilson train" in (tmp_path / "a.log").read_text(encoding="utf-8")
    gpus("0,0", 0)
    assert run_sweep([], jobs=2, runs_dir=tmp_path) == [] == run_sweep([{"device": "cpu", "alhpa": 1}], jobs=2, runs_dir=tmp_path)[1:]
    with pytest.raises(InputError, match="twice"):
        run_sweep([{"device": "auto"}], jobs=2, runs_dir=tmp_path)


@pytest.mark.parametrize(("said", "words"), [
    ("CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 79 GiB", "nvidia-smi"),
    ("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously reported", "damaged"),
    ("CUDA error: all CUDA-capable devices are busy or unavailable", "for itself"),
    ("CUDA error: no kernel image is available for execution on the device", "not built"),
    ("CUDA error: system not yet initialized", "fabricmanager"),
    ("", "Choose another GPU"),
])
def test_a_gpu_that_cannot_be_used(said, words, monkeypatch):
    "One sentence: which, what CUDA says, what to do."
    def fails(device):
        raise RuntimeError(said)
    monkeypatch.setattr(torch.cuda, "set_device", fails)
    with pytest.raises(InputError, match=r"\Acuda:1 cannot be used: .*device=cpu\.\Z") as error:
        start_gpu(torch.device("cuda:1"))
    assert words in str(error.value) and "kernel errors might" not in str(error.value)


def test_gpus_that_torch_counts_and_cannot_use(gpus, monkeypatch):
    "A driver that is too old: two processes on the processor are not what was asked for."
    gpus(None, 2, usable=False)

    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update")
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(InputError, match="The 2 GPUs of this machine cannot be used.*too old.*Update the driver.*device=cpu"):
        local_world_size(resolve_config(parse_config({}), "shapes"))
    assert local_world_size(resolve_config(parse_config({"device": "cpu"}), "shapes")) == 1


def test_a_rank_without_a_gpu_of_its_own(gpus, monkeypatch):
    "torchrun with more processes than GPUs."
    gpus("3", 1)
    for name in ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="cuda:1.*1 GPU by CUDA_VISIBLE_DEVICES=.3.*--nproc-per-node 1"):
        choose_device("auto")


# ------------------------------------------------------------------------- what other tools leave behind


def test_variables_of_other_tools_start_no_group(monkeypatch):
    "A Slurm shell, a launcher that was: training alone is not mistaken for a rank; what torchrun left is named."
    left = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
            "SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "3"}
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert not is_torchelastic_launched()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert not is_torchelastic_launched()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert is_torchelastic_launched()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(InputError, match="127.0.0.1:1.*unset TORCHELASTIC_RUN_ID"), process_group(torch.device("cpu")):
        pass


def test_a_machine_whose_name_has_no_address(monkeypatch):
    "torchrun names it to its ranks, which would look for it for half an hour: alone they meet on localhost."
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
                        "MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="no torchrun answers at localhost:1"), process_group(torch.device("cpu")):
        pass
    monkeypatch.setenv("MASTER_ADDR", "nowhere.invalid")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    with pytest.raises(InputError, match="MASTER_ADDR='nowhere.invalid'.*--local-addr"), process_group(torch.device("cpu")):
        pass


def test_no_loopback_is_one_sentence(monkeypatch, tmp_path):
    "Also where the interface is there but down; a name of a cluster's interface is no hindrance on one machine."
    def no_answer(*_, **__):
        raise OSError(101, "Network is unreachable")
    monkeypatch.setattr(ranks.socket, "create_connection", no_answer)
    with pytest.raises(InputError, match="nproc=1"):
        launch(print, (), 2, tmp_path / "logs", "cpu")
    assert not (tmp_path / "logs").exists()


# ---------------------------------------------------------------------------- servers' addresses


@pytest.fixture
def servers():
    "The modules behind `make lab` and `make studio`."
    from wilson.workbench import servers, studio
    return servers, studio


@pytest.mark.parametrize(("flags", "ip", "prefix", "rest"), [
    ([], "127.0.0.1", "/", []),
    (["--no-browser", "--ip=0.0.0.0"], "0.0.0.0", "/", ["--no-browser"]),
    (["--ServerApp.ip", "::", "--port=9"], "::", "/", ["--port=9"]),
    (["--ip=*"], "", "/", []),
    (["--ip=[::1]", "--ip=here"], "here", "/", []),
    (["--base_url=/user/x/"], "127.0.0.1", "/user/x/", []),
    (["--ServerApp.base_url", "user/x"], "127.0.0.1", "/user/x/", []),
    (["--base-url=/"], "127.0.0.1", "/", []),
    (["--ip"], "127.0.0.1", "/", ["--ip"]),  # the server says what is missing
])
def test_a_chosen_address_is_found_however_it_is_written(flags, ip, prefix, rest, servers):
    place = servers[0].parse_address(flags, "ServerApp")
    assert (place.ip, place.prefix, place.flags) == (ip, prefix, rest)


def test_an_open_address_is_warned_of_once(servers, capsys):
    "Not for this machine's own; an address that is none of its is refused before a server starts."
    lab, studio = servers

    def said(*flags: str) -> tuple[bool, str]:
        return lab.can_listen("JupyterLab", lab.parse_address(flags, "ServerApp")), capsys.readouterr().out

    for own in ((), ("--ip=localhost",), ("--ip=127.0.0.2",), ("--ip=::1",)):
        assert said(*own) == (True, ""), own
    for wide in ("0.0.0.0", "*", "::"):
        fine, text = said(f"--ip={wide}")
        assert fine and text.count("\n") == 1 and "has the token below controls this account" in text, text
    assert "token below" not in said("--ip=*", "--ServerApp.token=")[1]
    for none in ("192.0.2.7", "nowhere.invalid", "a..b"):
        fine, text = said(f"--ip={none}")
        assert not fine and text.count("\n") == 1 and none in text and "omit --ip to use 127.0.0.1" in text, text


def test_the_printed_address_can_be_opened(servers, tmp_path, monkeypatch):
    "Brackets for IPv6, a name for every address, the token that was given in place of voila's dots."
    _, studio = servers
    monkeypatch.setattr(studio, "LOGS", tmp_path)
    here = socket.gethostname()
    for url, token, wanted in (
            ("http://127.0.0.1:8866/?token=0a", None, "http://127.0.0.1:8866/?token=0a"),
            ("http://::1:8866/user/x/?token=0a", None, "http://[::1]:8866/user/x/?token=0a"),
            ("http://:::8866/?token=0a", None, f"http://{here}:8866/?token=0a"),
            ("http://localhost:8866/?token=...", "a+b", "http://localhost:8866/?token=a%2Bb"),
            ("https://hub.example.org/user/x/?token=0a", None, "https://hub.example.org/user/x/?token=0a")):
        (tmp_path / "voila.log").write_text(f"[Voila] Voil\xe0 is running at:\n{url}\n", encoding="utf-8")
        assert studio.studio_address(token) == wanted


def test_browser_code_fetches_nothing_by_an_absolute_path():
    "Behind a prefix it would ask the wrong server."
    for file in (REPO / "wilson/widgets/browser").iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"""(fetch|import|open|url)\(\s*["'`]?(/|https?:)|\b(src|href)\s*=\s*["'`](/|https?:)""", text), file
