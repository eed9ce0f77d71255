"""Scripts of `wilson slurm` on a real Slurm: two nodes on this machine, started here and ended here."""
from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import QUICK, environment, need

from wilson.cli.command import main
from wilson.engine.step_folder import StepFolder
from wilson.experiments.slurm import write_script, write_sweep
from wilson.experiments.slurm_resources import Resources

SMALL = {option[2:].replace("-", "_"): value for option, value in zip(QUICK[::2], QUICK[1::2])}
PLAYED = SMALL | {"seed": 1, "epochs": 40}  # of the stand-in: its updates
TASK = "shapes-striped_disc__dotted_square-overlap"
ONE_CORE = Resources(cpus_per_task=1, time="00:10:00")

OWN_METHOD = """from wilson.methods.wilson import Wilson


class Mine(Wilson):
    name = "mine"
"""

# Keeps to what `wilson train` promises: it saves at the next update, and ends with 128 and the number of the signal.
STAND_IN = """
import os, pathlib, signal, sys, time

told = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: told.append(number))
given = dict(a.split("=", 1) for a in sys.argv if a.startswith("--"))
seed, updates = given["--seed"], int(given["--epochs"])
saved = pathlib.Path(f"saved-{seed}-{os.environ.get('RANK', 0)}")
begun = update = int(saved.read_text()) if saved.is_file() else 0
print(f"from update {begun}", flush=True)
if os.environ.get("RANK") == "1" and pathlib.Path("unlucky").is_file():
    os.remove("unlucky")
    sys.exit(9)
while update < updates:
    time.sleep(0.1)
    update += 1
    if told:
        saved.write_text(str(update))
        print(f"saved at {update}", flush=True)
        sys.exit(128 + told[0])
print(f"finished from {begun}", flush=True)
"""

CONFIGURATION = """
ClusterName=wilson
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits until its old credential has expired
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=1,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=20
NodeName=first NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=second NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=usual Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


# ------------------------------------------------------------------------------- the cluster


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def processes_with(variable: str) -> list[int]:
    "Processes that have a variable in their environment, this one left out."
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


class Cluster:
    "A Slurm in a folder."

    def __init__(self, folder: Path):
        self.folder, self.daemons = folder, []
        (folder / "state").mkdir()
        host = socket.gethostname().split(".")[0]
        (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host, ports=free_ports(3)), encoding="utf-8")
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        self.variables = environment(SLURM_CONF=str(folder / "slurm.conf"))
        for name in [n for n in self.variables if n.startswith(("SLURM_", "SBATCH_")) and n != "SLURM_CONF"]:
            del self.variables[name]

    def start(self) -> None:
        files = [f"--{name}={self.folder}/munge.{end}" for name, end in
                 {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}.items()]
        self.daemon("munged", "--foreground", "--force", "--num-threads=1", *files)
        until(lambda: (self.folder / "munge.socket").exists(), 20)
        self.daemon("slurmctld", "-D", "-c")
        for node in ("first", "second"):
            self.daemon("slurmd", "-D", "-N", node)
        until(lambda: self.run("sinfo", "--noheader", "--format=%t %D").split() == ["idle", "2"], 40, self.said)

    def daemon(self, name: str, *arguments: str) -> None:
        with open(self.folder / f"{name}.out", "a", encoding="utf-8") as out:
            self.daemons.append(subprocess.Popen([name, *arguments], env=self.variables, stdin=subprocess.DEVNULL,
                                                 stdout=out, stderr=out))

    def end(self) -> None:
        "Jobs first, so that each step is ended by its own node; then whatever is left of ours."
        with suppress(Exception):
            self.run("scancel", "--user=root")
            until(lambda: not self.run("squeue", "--noheader"), 30)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(process, number)
            with suppress(AssertionError):
                until(lambda: not self.processes() and all(d.poll() is not None for d in self.daemons), 5)

    def processes(self) -> list[int]:
        "Daemons, and whatever they started."
        return processes_with(f"SLURM_CONF={self.variables['SLURM_CONF']}")

    def said(self) -> str:
        return "\n".join(f"{p.name}: {p.read_text(encoding='utf-8')[-1500:]}" for p in self.folder.glob("*.[lo]*"))

    def run(self, *command: object, cwd: Path | None = None) -> str:
        "Output of a command of Slurm, which must succeed."
        done = subprocess.run([str(c) for c in command], cwd=cwd, env=self.variables, capture_output=True, text=True, encoding="utf-8",
                              timeout=60)
        assert done.returncode == 0 or command[0] == "sinfo", (command, done.stdout, done.stderr)
        return done.stdout.strip()

    def submit(self, script: Path, *options: str) -> str:
        return self.run("sbatch", "--parsable", *options, script)

    def job(self, number: str) -> dict[str, str]:
        "What Slurm knows of a job."
        lines = [line.strip() for line in self.run("scontrol", "show", "job", number).splitlines()]
        paths = dict(line.split("=", 1) for line in lines if line.startswith("Std"))  # may hold spaces
        return dict(part.split("=", 1) for line in lines for part in line.split() if "=" in part) | paths

    def wait(self, number: str, *states: str, restarts: int = 0, seconds: float = 60) -> dict[str, str]:
        "Wait until a job is in one of the states and was started again so many times."
        def there():
            job = self.job(number)
            return job["JobState"] in states and int(job["Restarts"]) == restarts
        until(there, seconds, lambda: f"{self.job(number)}\n{self.output(number)}")
        return self.job(number)

    def output(self, number: str) -> str:
        path = Path(self.job(number)["StdOut"].replace("%%", "%"))
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def until_says(self, number: str, words: str, seconds: float = 60) -> None:
        until(lambda: words in self.output(number), seconds, lambda: f"{self.job(number)}\n{self.output(number)}")


def until(condition, seconds: float, said=lambda: "") -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited too long\n{said()}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster():
    missing = [c for c in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(c)]
    need(not missing, f"needs {', '.join(missing)}: apt-get install slurm-wlm munge")
    need(os.geteuid() == 0, "needs root, who starts the daemons of Slurm")
    # a short path: that of a socket may have 107 letters
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.end()


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> tuple[str]:
    "The program in the place of wilson, in a root of its own."
    root = tmp_path / "a root"
    root.mkdir()
    (root / "settings.ini").touch()
    monkeypatch.chdir(root)
    (root / "stand_in.py").write_text(STAND_IN, encoding="utf-8")
    return (str(root / "stand_in.py"),)


def state(step: str) -> StepFolder:
    return StepFolder(Path.cwd() / "runs" / TASK / step)


# ------------------------------------------------------------------------------- real training


def test_a_job_trains(cluster, root, monkeypatch, capsys):
    "By the command, from a folder whose name Slurm and bash would take apart; a method of one's own as it was then."
    awkward = root.rename(root.parent / "it's 100%j & more")
    monkeypatch.chdir(awkward)
    Path("ideas.py").write_text(OWN_METHOD, encoding="utf-8")
    assert main(["slurm", *QUICK, "--method=ideas.py:Mine", "--cpus-per-task=1", "--time=00:10:00", "--sbatch=nice=5", "--out=jobs/tiny.sh"]) == 0
    assert "submit it with: sbatch" in capsys.readouterr().out
    Path("ideas.py").write_text("edited since", encoding="utf-8")
    number = cluster.submit(Path("jobs/tiny.sh"))
    assert cluster.wait(number, "COMPLETED", "FAILED")["JobState"] == "COMPLETED", cluster.output(number)
    assert state("base-s42/step0").state == state("mine-s42/step1").state == "finished"
    assert next(state("mine-s42/step1").path.glob("code/*/ideas.py")).read_text(encoding="utf-8") == OWN_METHOD
    output, = Path("runs/slurm").glob("*.out")
    assert output.name == f"tiny-{number}.out" and "published" in output.read_text(encoding="utf-8")  # the table


@pytest.mark.parametrize("how", ["time", "requeue"])
def test_an_interrupted_job_goes_on(cluster, root, how):
    "USR1 to the shell, as before the end of a job's time; and TERM to all, as when Slurm wants the machine."
    path = write_script(SMALL | {"epochs": 25, "step": 0, "num_workers": 1}, "job.sh", ONE_CORE)
    number, base = cluster.submit(path), state("base-s42/step0")
    until((base.path / "last.pt").exists, 60, lambda: cluster.output(number))
    if how == "time":
        cluster.run("scancel", "--batch", "--signal=USR1", number)
    else:
        cluster.run("scontrol", "requeue", number)
    cluster.wait(number, "PENDING", restarts=1)
    assert base.state == "interrupted"
    assert cluster.wait(number, "COMPLETED", "FAILED", restarts=1)["JobState"] == "COMPLETED", cluster.output(number)
    assert base.state == "finished" and "going on from" in cluster.output(number)
    assert ("goes back into the queue" in cluster.output(number)) is (how == "time")


def test_a_sweep_as_arrays(cluster, root):
    "Two members, one base: it is trained once. What fails is not tried again, and its member says so."
    Path("data/none").mkdir()  # demo data are made where no folder is
    members = [SMALL, SMALL | {"method": "finetune", "pseudo_epoch": None}, SMALL | {"seed": 7, "data_root": "data/none"}]
    submit, *_ = write_sweep(members, "jobs/ours", ONE_CORE)
    bases, array = (line.split()[-1] for line in cluster.run(submit).splitlines())
    good, other, bad = (cluster.wait(f"{array}_{n}", "COMPLETED", "FAILED", seconds=120) for n in range(3))
    assert good["JobState"] == other["JobState"] == "COMPLETED", cluster.output(f"{array}_0")
    assert state("wilson-s42/step1").state == state("finetune-s42/step1").state == "finished"
    for n in (0, 1):
        said = cluster.output(f"{array}_{n}")
        assert "base-s42/step0 is finished with this configuration: used as it is" in said and "step 0, epoch" not in said
    assert cluster.job(f"{bases}_0")["JobState"] == "COMPLETED"
    for job in (cluster.job(f"{bases}_1"), bad):
        assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "2:0", "0")
    assert "wilson: " in cluster.output(f"{bases}_1") and "data/none" in cluster.output(f"{bases}_1")
    assert f"its base failed: {state('base-s7/step0').path}" in cluster.output(f"{array}_2")


# ------------------------------------------------------------- what the script does, by the stand-in


def test_the_end_of_a_jobs_time_is_told(cluster, stand_in):
    "Slurm looks twice a minute for jobs that want to know."
    number = cluster.submit(write_script(PLAYED | {"epochs": 1000}, "job.sh", ONE_CORE, stand_in))
    cluster.until_says(number, "from update 0")
    cluster.run("scontrol", "update", f"JobId={number}", "TimeLimit=2")
    cluster.wait(number, "PENDING", "RUNNING", restarts=1, seconds=240)
    update = int(Path("saved-1-0").read_text(encoding="utf-8"))
    cluster.until_says(number, f"from update {update}")
    cluster.run("scancel", number)


def test_a_preempted_job_goes_on(cluster, stand_in):
    "In the time of grace Slurm tells the step alone, and would call the job failed when that has ended."
    path = write_script(PLAYED, "job.sh", ONE_CORE, stand_in)
    number = cluster.submit(path, "--nodelist=first", "--exclusive")
    cluster.until_says(number, "from update 0")
    urgent = cluster.run("sbatch", "--parsable", "--partition=urgent", "--nodelist=first", "--exclusive",
                         "--output=/dev/null", "--wrap=sleep 1")
    assert cluster.wait(urgent, "COMPLETED")
    assert cluster.wait(number, "COMPLETED", "FAILED", restarts=1)["JobState"] == "COMPLETED"
    assert "finished from 0" not in cluster.output(number)


def test_only_one_job_of_an_array_is_put_back(cluster, stand_in):
    "The last index has the number of the whole array."
    members = [PLAYED | {"method": "joint", "pseudo_epoch": None, "seed": seed} for seed in (1, 2)]
    submit, _ = write_sweep(members, "jobs", ONE_CORE, program=stand_in)
    array = cluster.run(submit).split()[-1]
    for n in (0, 1):
        cluster.until_says(f"{array}_{n}", "from update 0")
    last = next(n for n in (0, 1) if cluster.job(f"{array}_{n}")["JobId"] == array)
    cluster.run("scancel", "--batch", "--signal=USR1", f"{array}_{last}")
    jobs = [cluster.wait(f"{array}_{n}", "COMPLETED", "FAILED", restarts=n == last) for n in (0, 1)]
    assert [job["JobState"] for job in jobs] == ["COMPLETED"] * 2
    assert "finished from 0" in cluster.output(f"{array}_{1 - last}") and Path(f"saved-{last + 1}-0").is_file()


def test_a_cancelled_job_stays_away(cluster, stand_in):
    number = cluster.submit(write_script(PLAYED, "job.sh", ONE_CORE, stand_in))
    cluster.until_says(number, "from update 0")
    cluster.run("scancel", number)
    job = cluster.wait(number, "CANCELLED")
    cluster.until_says(number, "saved at")
    until(lambda: number not in cluster.run("squeue", "--noheader", "--format=%i").split(), 30)
    assert job["Restarts"] == "0" and "goes back" not in cluster.output(number)


def test_two_nodes_by_torchrun(cluster, stand_in):
    "Each node has an agent with two processes: where one dies, all are started again; told, all save, and all go on."
    resources = Resources(nodes=2, cpus_per_task=1, time="00:10:00")
    path = write_script(PLAYED, "job.sh", resources, stand_in)
    path.write_text(path.read_text(encoding="utf-8").replace("--nproc-per-node=1", "--nproc-per-node=2"), encoding="utf-8")
    Path("unlucky").touch()
    number = cluster.submit(path)
    until(lambda: cluster.output(number).count("from update") == 8, 90, lambda: cluster.output(number))
    cluster.run("scancel", "--batch", "--signal=USR1", number)
    cluster.wait(number, "PENDING", restarts=1)
    updates = [int(Path(f"saved-1-{rank}").read_text(encoding="utf-8")) for rank in range(4)]
    assert all(0 < update < 40 for update in updates)
    assert cluster.wait(number, "COMPLETED", "FAILED", restarts=1, seconds=90)["JobState"] == "COMPLETED", cluster.output(number)
    assert all(f"finished from {update}" in cluster.output(number) for update in updates)


# ------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(("arguments", "words"), [
    (["--alhpa=1"], "'--alpha'"), (["--epochs=0"], "more than 0"), (["--task=15-6"], "'15-5'"), (["--time=soon"], "HH:MM:SS"),
    (["--sbatch=signal=TERM"], "leave this one out"), (["--members=members.json"], "member 2: There is no parameter 'alhpa'"),
])
def test_refused_before_anything_is_written(arguments, words, root, capsys):
    Path("members.json").write_text(json.dumps([{"seed": 1}, {"alhpa": 1}]), encoding="utf-8")
    before = sorted(root.rglob("*"))
    try:
        code = main(["slurm", "--dataset=shapes", *arguments, "--out=jobs/job.sh"])
    except SystemExit as e:
        code = e.code
    assert code == 2 and words in capsys.readouterr().err and sorted(root.rglob("*")) == before
