"""Downloads and archives: cut off, killed, torn, hostile, full; against a real server on localhost."""
from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from conftest import environment, need
from download_server import CONTENT, IMAGES, Server, packed

from wilson.core.errors import InputError
from wilson.datasets import download as download_module, unpack as unpack_module
from wilson.datasets.download import Archive, download
from wilson.datasets.unpack import unpack

LISTS = {"VOC/ImageSets/train.txt": b"000\n001\n"}


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download_module, "_PAUSES", (0,))
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


DEAD = "http://127.0.0.1:9/images.zip"  # nothing listens there


def refused(work, *args) -> str:
    with pytest.raises(InputError) as e:
        work(*args)
    return str(e.value)


def names(folder: Path) -> list[str]:
    "Files of a folder, without the notes about archives that nobody publishes a digest of."
    return sorted(n for n in os.listdir(folder) if not n.endswith(".sha256")) if folder.exists() else []


def script(text: str, *arguments: object) -> list[str]:
    "A command that runs `text` with the modules as `d` and `u`, and says an InputError as the command line does."
    lines = ["import os, sys", "from pathlib import Path, PurePosixPath", "import wilson.datasets.download as d",
             "import wilson.datasets.unpack as u", "from wilson.core.errors import InputError", "try:", textwrap.indent(textwrap.dedent(text), "    "),
             "except InputError as e: sys.exit(str(e))"]
    return [sys.executable, "-c", "\n".join(lines), *map(str, arguments)]


def started(text: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(script(text, *arguments), env=environment(no_proxy="127.0.0.1"), text=True, encoding="utf-8",
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# "print" last, so that a test knows that it came to its end
DOWNLOAD = """
    archive = d.Archive("images.zip", (sys.argv[1],), int(sys.argv[2]), sys.argv[3])
    print(d.download(archive, Path(sys.argv[4])))
"""


def downloading(archive: Archive, folder: Path) -> subprocess.Popen:
    return started(DOWNLOAD, archive.mirrors[0], archive.size, archive.digest, folder)


def on_small_disk(disk: Path, size: str, text: str, *arguments: object) -> subprocess.CompletedProcess:
    "`script` where only it sees a tmpfs of `size` at `disk`."
    allowed = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    need(allowed.returncode == 0, "needs `unshare -rm mount …`, which this machine does not permit")
    disk.mkdir()
    mount = 'mount -t tmpfs -o size="$1" none "$2" || exit 99; shift 2; exec "$@"'
    command = ["unshare", "-rm", "bash", "-c", mount, "bash", size, str(disk), *script(text, disk, *arguments)]
    done = subprocess.run(command, env=environment(no_proxy="127.0.0.1"), capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert done.returncode != 99, done.stderr
    return done


# ---------------------------------------------------------------------------- connections


def test_whole_and_asked_once(server, tmp_path):
    "A file that is right is not fetched again, and nothing else lies in the folder."
    path = download(server.archive(), tmp_path / "deep" / "data")
    assert path.read_bytes() == CONTENT and names(path.parent) == ["images.zip"]
    assert download(server.archive(), path.parent) == path and len(server.requests) == 1
    assert all(a.startswith("wilson/") for a in server.agents)


def test_cut_connection_is_resumed(server, tmp_path):
    "No byte comes twice."
    server.cuts = [100_000, 50_000]
    path = download(server.archive(), tmp_path)
    assert path.read_bytes() == CONTENT and server.sent == len(CONTENT)
    assert [r for _, r in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_resumed_at_the_next_mirror(server, tmp_path):
    server.cuts = [100_000, 0]
    path = download(server.archive(f"{server.url}/a", f"{server.url}/b"), tmp_path)
    assert path.read_bytes() == CONTENT and server.sent == len(CONTENT)
    assert server.requests[-1] == ("/b", "bytes=100000-")


def test_server_without_range(server, tmp_path):
    "It sends all of it, and none of it is appended to the old part."
    server.cuts, server.ranges = [100_000], False
    path = download(server.archive(), tmp_path)
    assert path.read_bytes() == CONTENT and server.sent == len(CONTENT) + 100_000


@pytest.mark.parametrize("begun", [CONTENT, CONTENT + b"more", b"of another file", b"x" * len(CONTENT)])
@pytest.mark.parametrize("known", [{}, {"size": None}, {"size": None, "digest": None}])
def test_part_of_an_earlier_run(begun, known, server, tmp_path):
    "Whole, too long, or wrong: in the end the file is right."
    (tmp_path / ".images.zip.part").write_bytes(begun)
    assert download(server.archive(**known), tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["images.zip"]


def test_without_a_length(server, tmp_path):
    "Only size, digest or the archive itself can tell then that a connection broke."
    server.says_length, server.cuts = False, [100_000]
    assert download(server.archive(), tmp_path).read_bytes() == CONTENT and server.sent == len(CONTENT)
    server.cuts = [100_000]
    unknown = server.archive(f"{server.url}/a", f"{server.url}/b", size=None, digest=None)
    assert download(replace(unknown, name="second.zip"), tmp_path).read_bytes() == CONTENT


def test_first_mirror_down(server, tmp_path):
    server.missing = {"/gone"}
    path = download(server.archive(DEAD, f"{server.url}/gone", f"{server.url}/images.zip"), tmp_path)
    assert path.read_bytes() == CONTENT and [p for p, _ in server.requests] == ["/gone", "/images.zip"]


def test_proxy_of_the_environment(server, tmp_path, monkeypatch):
    "Also one that is set after the first download of a process."
    download(server.archive(), tmp_path / "direct")
    monkeypatch.setenv("http_proxy", server.url)
    download(server.archive("http://voc.example/images.zip"), tmp_path)
    assert server.requests[-1] == ("http://voc.example/images.zip", None)


def test_certificate_nobody_vouches_for(server, tmp_path, monkeypatch):
    "TLS is verified: a server that signed its own certificate gives no byte."
    need(shutil.which("openssl"), "needs openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    archive = server.archive(server.url.replace("http:", "https:") + "/images.zip")
    said = refused(download, archive, tmp_path / "data")
    assert "CERTIFICATE_VERIFY_FAILED" in said and names(tmp_path / "data") == [] and not server.requests
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # and once it is vouched for, all
    assert download(archive, tmp_path / "data").read_bytes() == CONTENT


# ------------------------------------------------------------------------------ sentences


def test_digest_that_no_mirror_meets(server, tmp_path):
    "Each mirror is tried from nothing, and one sentence says what was found and expected."
    archive = server.archive(f"{server.url}/a", f"{server.url}/b", digest=f"md5:{'0' * 32}")
    said = refused(download, archive, tmp_path)
    found = hashlib.md5(CONTENT).hexdigest()
    for part in ("images.zip could not be downloaded", f"/a: its md5 is {found}, expected {'0' * 32}", "/b: its md5"):
        assert part in said, said
    assert server.requests == [("/a", None), ("/b", None)] and names(tmp_path) == []


def test_no_server_at_all(server, tmp_path):
    "The way by hand is all there."
    archive = server.archive(DEAD, "http://nowhere.invalid/images.zip")
    said = refused(download, archive, tmp_path)
    for part in (f"{DEAD}: ", "Connection refused", "http://nowhere.invalid/images.zip: ", f"{len(CONTENT):,} bytes",
                 archive.digest, f"from {DEAD} in a browser", f"put it as {tmp_path / 'images.zip'}",
                 "run the same command again", "http_proxy"):
        assert part in said, said
    assert names(tmp_path) == []


def test_what_came_is_kept_and_said(server, tmp_path):
    server.cuts = [100_000, 0, 0]
    assert "100,000 bytes of it are kept" in refused(download, server.archive(), tmp_path)
    assert names(tmp_path) == [".images.zip.part"]


def test_web_page_in_place_of_the_file(server, tmp_path):
    "It says so where the size is known, and costs nothing of the part."
    archive = server.archive()
    server.content, begun = b"<html>Please sign in</html>", tmp_path / ".images.zip.part"
    begun.write_bytes(CONTENT[:1000])
    assert "27 bytes are offered, expected" in refused(download, archive, tmp_path)
    assert begun.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("known", [{}, {"size": None}, {"size": None, "digest": None}])
def test_wrong_file_of_the_user(known, server, tmp_path):
    path = tmp_path / "images.zip"
    path.write_bytes(b"mine")
    said = refused(download, server.archive(**known), tmp_path)
    assert str(path) in said and "delete it" in said and path.read_bytes() == b"mine" and not server.requests


def test_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "data").write_text("a file", encoding="utf-8")
    assert "cannot be written" in refused(download, server.archive(), tmp_path / "data" / "voc")


# ------------------------------------------------------------------------------ processes


def test_killed_while_downloading(server, tmp_path):
    server.pause = 0.03
    process, part = downloading(server.archive(), tmp_path), tmp_path / ".images.zip.part"
    while not (part.exists() and part.stat().st_size > 40_000):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert names(tmp_path) == [".images.zip.part"]
    had, server.pause = part.stat().st_size, 0
    assert download(server.archive(), tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == ("/images.zip", f"bytes={had}-") and names(tmp_path) == ["images.zip"]


def test_interrupted_while_downloading(server, tmp_path):
    "Ctrl-C keeps the part too."
    server.pause = 0.03
    process, part = downloading(server.archive(), tmp_path), tmp_path / ".images.zip.part"
    while not (part.exists() and part.stat().st_size > 40_000):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode != 0 and names(tmp_path) == [".images.zip.part"] and part.stat().st_size > 40_000


def test_two_at_once(server, tmp_path):
    "One fetches, the other waits and takes the result."
    server.pause = 0.03
    both = [downloading(server.archive(), tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=30)[0] for process in both]
    assert all(p.returncode == 0 for p in both) and all(str(tmp_path / "images.zip") in s for s in said)
    assert len(server.requests) == 1 and names(tmp_path) == ["images.zip"]
    assert sum("waiting for it" in s for s in said) == 1


# ---------------------------------------------------------------------------------- disks


def test_too_little_space_is_said_before(server, tmp_path):
    done = on_small_disk(tmp_path / "disk", "64k", f"""
        try: d.download(d.Archive("images.zip", ("{server.url}/images.zip",), {len(CONTENT)}), Path(sys.argv[1]))
        finally: print(os.listdir(sys.argv[1]))
    """)
    assert done.returncode == 1 and done.stdout == "[]\n", done
    for part in ("65,536 bytes free", f"needs {len(CONTENT):,}", str(tmp_path / "disk"), "make room"):
        assert part in done.stderr, done.stderr


def test_disk_that_fills_up(server, tmp_path):
    "Nobody knew the size; what came is kept, and with more room it goes on from there."
    server.says_length = False
    done = on_small_disk(tmp_path / "disk", "64k", f"""
        disk, archive = Path(sys.argv[1]), d.Archive("images.zip", ("{server.url}/images.zip",))
        try: d.download(archive, disk)
        except InputError as e: print(e)
        part = disk / ".images.zip.part"
        print(part.stat().st_size, os.listdir(disk))
        os.system(f"mount -o remount,size=4m {{disk}}")
        print(d.download(archive, disk).read_bytes() == Path(sys.argv[2]).read_bytes(), sorted(os.listdir(disk)))
    """, _file(tmp_path / "content", CONTENT))
    said, kept, after = done.stdout.splitlines()
    assert ".images.zip.part cannot be written: No space left on device. Make room" in said and "goes on" in said
    assert kept == "65536 ['.images.zip.part']" and after == "True ['images.zip', 'images.zip.sha256']", done
    assert [r for _, r in server.requests] == [None, "bytes=65536-"]


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("checked", [True, False])
def test_disk_too_small_to_unpack(checked, tmp_path):
    "Said before anything is unpacked; and where the disk fills up all the same, nothing stays."
    archive = _file(tmp_path / "images.zip", CONTENT)
    done = on_small_disk(tmp_path / "disk", "128k", f"""
        if not {checked}: u.check_space = lambda *args: None
        try: u.unpack(sys.argv[2], Path(sys.argv[1], "data"), lambda p: p)
        finally: print(os.listdir(sys.argv[1]))
    """, archive)
    assert done.returncode == 1 and done.stdout == "[]\n", done
    expected = ("131,072 bytes free", "needs 245,760") if checked else ("No space left", "Make room")
    assert all(part in done.stderr for part in expected), done.stderr


# ------------------------------------------------------------------------------ unpacking


def place(p: PurePosixPath) -> PurePosixPath | None:
    return p.relative_to("VOC") if p.is_relative_to("VOC") else None


def unpacked(folder: Path) -> dict[str, bytes]:
    return {f"VOC/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(params=["tar", "tar.gz", "zip"])
def kind(request) -> str:
    return request.param


def test_unpack(kind, tmp_path):
    path = _file(tmp_path / f"x.{kind}", packed(kind, IMAGES | LISTS | {"README": b"", "VOC2/x": b""}))
    assert unpack(path, tmp_path / "voc", place) == [tmp_path / "voc/ImageSets", tmp_path / "voc/JPEGImages"]
    assert unpacked(tmp_path / "voc") == IMAGES | LISTS and names(tmp_path / "voc") == ["ImageSets", "JPEGImages"]


def test_existing_files_are_not_overwritten(kind, tmp_path):
    "In a folder that is there, what it lacks is added; a folder of one's own stays."
    path, voc = _file(tmp_path / f"x.{kind}", packed(kind, IMAGES | LISTS)), tmp_path / "voc"
    (voc / "JPEGImages").mkdir(parents=True)
    mine = {_file(voc / "JPEGImages/000.jpg", b"mine"), _file(voc / "notes.txt", b"mine too")}
    times = {p: p.stat().st_mtime_ns for p in mine}
    assert unpack(path, voc, place) == [voc / "ImageSets", voc / "JPEGImages"]
    assert unpacked(voc) == IMAGES | LISTS | {"VOC/JPEGImages/000.jpg": b"mine", "VOC/notes.txt": b"mine too"}
    assert {p: p.stat().st_mtime_ns for p in mine} == times
    assert unpack(path, voc, place) == []


def test_whole_data_that_cannot_be_written(tmp_path):
    "Nothing to do there, nothing to write."
    path, voc = _file(tmp_path / "x.zip", CONTENT), tmp_path / "voc"
    unpack(path, voc, place)
    before = voc.stat().st_mtime_ns
    assert unpack(path, voc, place) == [] and voc.stat().st_mtime_ns == before


@pytest.mark.parametrize("name, says", [
    ("../evil", "leads out"), ("VOC/../../evil", "leads out"), ("/tmp/evil", "absolute"), ("..\\evil", "backslash"),
    ("VOC\\evil", "backslash"), ("C:/evil", "drive letter"), ("c:evil", "drive letter")])
@pytest.mark.parametrize("wanted", [True, False])
def test_names_that_lead_elsewhere(name, says, wanted, kind, tmp_path):
    path = _file(tmp_path / f"x.{kind}", packed(kind, IMAGES | {name: b"evil"}))
    said = refused(unpack, path, tmp_path / "in" / "voc", (lambda p: p) if wanted else place)
    assert str(path) in said and repr(name) in said and says in said and "nothing was unpacked" in said
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("type_, link, says", [
    (tarfile.SYMTYPE, "/etc/passwd", "symbolic link"), (tarfile.SYMTYPE, "JPEGImages", "symbolic link"),
    (tarfile.LNKTYPE, "VOC/JPEGImages/000.jpg", "hard link"), (tarfile.CHRTYPE, "", "device"),
    (tarfile.BLKTYPE, "", "device"), (tarfile.FIFOTYPE, "", "device")])
def test_members_that_are_no_files(type_, link, says, tmp_path):
    path = _file(tmp_path / "x.tar", packed("tar", IMAGES))
    info = tarfile.TarInfo("VOC/JPEGImages/evil.jpg")
    info.type, info.linkname = type_, link
    with tarfile.open(path, "a") as t:
        t.addfile(info)
    said = refused(unpack, path, tmp_path / "voc", place)
    assert f"'{info.name}' that is not a file but a {says}" in said and names(tmp_path) == ["x.tar"]


def test_zip_members_that_are_no_files(tmp_path):
    path, info = tmp_path / "x.zip", zipfile.ZipInfo("VOC/link")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(info, "/etc/passwd")
    assert "not a file but a symbolic link" in refused(unpack, path, tmp_path / "voc", place)
    assert names(tmp_path) == ["x.zip"]


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9])
def test_torn(share, kind, tmp_path):
    whole = packed(kind, IMAGES)
    path = _file(tmp_path / f"x.{kind}", whole[:int(share * len(whole))])
    said = refused(unpack, path, tmp_path / "voc", place)
    assert f"{path} is damaged" in said and "download it anew" in said and names(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_one_byte_changed(kind, tmp_path):
    "Found while unpacking by the checksum; nothing of it stays."
    damaged = bytearray(packed(kind, IMAGES))
    damaged[len(damaged) // 2] ^= 1
    path = _file(tmp_path / f"x.{kind}", bytes(damaged))
    assert "is damaged" in refused(unpack, path, tmp_path / "voc", place) and names(tmp_path) == [path.name]


KILLED = """
    class Bar:
        n = 0
        def __enter__(self): return self
        def __exit__(self, *args): pass
        def update(self, count):
            Bar.n += 1
            if where == "extracting" and Bar.n == 5: os.kill(os.getpid(), 9)
    def move(staged, target):
        move.n += 1
        if where == f"move {move.n}": os.kill(os.getpid(), 9)
        whole(staged, target)
    where, move.n, whole, u._place, u.bytes_bar = sys.argv[3], 0, u._place, move, lambda **options: Bar()
    u.unpack(sys.argv[1], sys.argv[2], lambda p: p.relative_to("VOC"))
"""


@pytest.mark.parametrize("where, there", [("extracting", []), ("move 1", []), ("move 2", ["ImageSets"])])
def test_killed_while_unpacking(where, there, tmp_path):
    "A folder is there with all it should hold, or it is not; the next call does the rest and clears up."
    path, voc = _file(tmp_path / "x.tar", packed("tar", IMAGES | LISTS)), tmp_path / "voc"
    process = started(KILLED, path, voc, where)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert [n for n in names(voc) if not n.startswith(".")] == there and ".unpacking" in names(voc)
    missing = [voc / n for n in ("ImageSets", "JPEGImages") if n not in there]
    assert unpack(path, voc, place) == missing
    assert unpacked(voc) == IMAGES | LISTS and names(voc) == ["ImageSets", "JPEGImages"]


def test_two_unpack_at_once(tmp_path, monkeypatch):
    "One does it, the other finds it done."
    path, results = _file(tmp_path / "x.zip", CONTENT), []
    extract = unpack_module._extract
    monkeypatch.setattr(unpack_module, "_extract", lambda *args: (time.sleep(0.2), extract(*args)))
    both = [threading.Thread(target=lambda: results.append(unpack(path, tmp_path / "voc", place))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(results) == [[], [tmp_path / "voc/JPEGImages"]] and unpacked(tmp_path / "voc") == IMAGES
    assert names(tmp_path / "voc") == ["JPEGImages"]


def test_data_that_is_a_link_elsewhere(tmp_path):
    "data/voc is often a link to a larger disk; all goes there."
    (tmp_path / "large").mkdir()
    (tmp_path / "voc").symlink_to(tmp_path / "large")
    path = _file(tmp_path / "x.zip", CONTENT)
    assert unpack(path, tmp_path / "voc", place) == [tmp_path / "voc/JPEGImages"]
    assert (tmp_path / "voc").is_symlink() and unpacked(tmp_path / "large") == IMAGES


def test_error_of_the_disk_is_a_sentence(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(unpack_module, "_place", fail)
    said = refused(unpack, _file(tmp_path / "x.zip", CONTENT), tmp_path / "voc", place)
    assert "voc cannot be written: Input/output error" in said and names(tmp_path) == ["x.zip"]
