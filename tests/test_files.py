"""Files, locks and the root, also where the operating system refuses what most of them have."""
from __future__ import annotations

import errno
import os
import stat
import sys
import threading

import pytest

from conftest import need
from wilson.places import InputError, at_root, project_root, written_aside

NOBODY = 65534


# --------------------------------------------------------------------------------- the root


def test_the_root_is_ours(tmp_path):
    "A marker of somebody else's, or of another project, decides nothing."
    home = tmp_path / "shared/me"
    home.mkdir(parents=True)
    settings, marker = tmp_path / "shared/settings.ini", tmp_path / "shared/wilson.toml"
    for text in ("", "[DEFAULT]\nlib_name = other\n", "[DEFAULT]\n# lib_name = wilson\n", "lib_name = wilsonian\n"):
        settings.write_text(text, encoding="utf-8")
        assert project_root(home) == home
    settings.write_text("[DEFAULT]\nlib_name = wilson\n", encoding="utf-8")
    assert project_root(home) == tmp_path / "shared"
    settings.unlink()
    marker.touch()
    assert project_root(home) == tmp_path / "shared"


def test_a_root_that_somebody_else_has_planted(tmp_path):
    need(hasattr(os, "getuid") and os.getuid() == 0, "only root can give files away")
    home = tmp_path / "shared/me"
    home.mkdir(parents=True)
    own = tmp_path / "own.toml"
    own.touch()
    for name in ("settings.ini", "wilson.toml"):
        planted = tmp_path / "shared" / name
        planted.write_text("[DEFAULT]\nlib_name = wilson\n", encoding="utf-8")
        assert project_root(home) == tmp_path / "shared"
        os.chown(planted, NOBODY, NOBODY)
        assert project_root(home) == home
        planted.unlink()
    link = tmp_path / "shared/wilson.toml"  # to a file of ours
    link.symlink_to(own)
    assert project_root(home) == tmp_path / "shared"
    os.lchown(link, NOBODY, NOBODY)
    assert project_root(home) == home
    # a container's root works in a folder that is mounted from outside
    os.chown(home, NOBODY, NOBODY)
    assert project_root(home) == tmp_path / "shared"


def test_no_home_folder(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what Python does where it finds none
    with pytest.raises(InputError, match="HOME is not set"):
        at_root("~/runs")


# ------------------------------------------------------------------------------------ files


def test_the_umask_is_never_changed(tmp_path, monkeypatch):
    "Threads that write whole files, and one that creates others meanwhile."
    set_umask, calls = os.umask, []
    before, interval = os.umask(0o027), sys.getswitchinterval()
    monkeypatch.setattr(os, "umask", lambda mask: calls.append(mask) or set_umask(mask))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    sys.setswitchinterval(1e-6)
    modes, running = set(), True

    def write(n: int) -> None:
        for _ in range(150):
            with written_aside(tmp_path / f"{n}.json") as aside:
                aside.write_text("{}", encoding="utf-8")

    def create() -> None:
        n = 0
        while running:
            handle = os.open(tmp_path / f"x{n}", os.O_CREAT | os.O_WRONLY, 0o666)
            modes.add(stat.S_IMODE(os.fstat(handle).st_mode))
            os.close(handle)
            n += 1

    other = threading.Thread(target=create)
    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    try:
        other.start()
        for thread in writers:
            thread.start()
        for thread in writers:
            thread.join()
        running = False
        other.join()
        modes |= {stat.S_IMODE((tmp_path / f"{n}.json").stat().st_mode) for n in range(3)}
        assert modes == {0o640} and not calls
    finally:
        running = False
        sys.setswitchinterval(interval)
        assert set_umask(before) == 0o027


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.EBADF, errno.ENOTSUP])
def test_a_refused_flush_is_no_error(tmp_path, monkeypatch, number):
    "FUSE, SMB and some NFS servers refuse to flush folders; a disk that fails is another thing."
    def refuse(handle):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    with written_aside(tmp_path / "a") as aside:
        aside.write_bytes(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole" and len([*tmp_path.iterdir()]) == 1
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"), written_aside(tmp_path / "a") as aside:
        aside.write_bytes(b"lost")
    assert (tmp_path / "a").read_bytes() == b"whole" and len([*tmp_path.iterdir()]) == 1
