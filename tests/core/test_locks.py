"Locks of processes that fork."

import os
import signal
import subprocess
import sys

import pytest

from wilson.core.locks import file_lock, try_lock

HOLD_AND_FORK = """
import os, signal, sys, time
from wilson.core.locks import file_lock
locks = [file_lock(path) for path in sys.argv[1:2]] + [file_lock(path, shared=True) for path in sys.argv[2:]]
child = os.fork()
if child == 0:
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_leaves_no_lock_to_those_it_forked(tmp_path):
    paths = [tmp_path / name for name in ("exclusive", "shared")]
    holder = subprocess.Popen([sys.executable, "-c", HOLD_AND_FORK, *map(str, paths)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True, encoding="utf-8")
    child = int(holder.stdout.readline())
    try:
        assert [try_lock(path) for path in paths] == [None, None]  # the forked process has released nothing
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.wait(30) == -signal.SIGKILL
        os.kill(child, 0)  # still running
        for path in paths:
            with file_lock(path, seconds=0):
                pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.wait()
