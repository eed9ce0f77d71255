"""A server on localhost that interrupts, refuses and forgets as tests ask."""
from __future__ import annotations

import hashlib
import io
import random
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from wilson.datasets.download import Archive

IMAGES = {f"VOC/JPEGImages/{i:03}.jpg": random.Random(i).randbytes(20_000) for i in range(12)}


def packed(kind: str, files: dict[str, bytes]) -> bytes:
    "A tar, tar.gz or zip with these files."
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as z:
            for name, content in files.items():
                z.writestr(zipfile.ZipInfo(name), content)
    else:
        with tarfile.open(fileobj=out, mode="w:gz" if kind == "tar.gz" else "w") as t:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                t.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Server:
    "Serves `content` under every path; what a test wants to be different, it sets."

    def __init__(self):
        self.content = CONTENT
        self.cuts: list[int] = []     # bytes after which each of the next answers breaks off
        self.ranges = True            # False: Range is ignored
        self.says_length = True
        self.pause = 0.0              # seconds before each 16 KiB
        self.missing: set[str] = set()
        self.requests: list[tuple[str, str | None]] = []  # path and Range
        self.sent = 0
        self.agents: set[str] = set()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def archive(self, *mirrors: str, **known) -> Archive:
        known = {"size": len(self.content), "digest": f"md5:{hashlib.md5(self.content).hexdigest()}"} | known
        return Archive("images.zip", mirrors or (f"{self.url}/images.zip",), **known)

    def handler(server):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers["Range"]
                server.requests.append((self.path, asked))
                server.agents.add(self.headers["User-Agent"])
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
                if self.path in server.missing:
                    return self.send_error(404)
                if start >= len(server.content):
                    return self.send_error(416)
                self.send_response(206 if start else 200)
                self.send_header("Content-Type", "application/zip")
                if server.says_length:
                    self.send_header("Content-Length", str(len(server.content) - start))
                self.end_headers()
                end = start + server.cuts.pop(0) if server.cuts else len(server.content)
                for at in range(start, min(end, len(server.content)), 1 << 14):
                    time.sleep(server.pause)
                    server.sent += self.wfile.write(server.content[at:min(at + (1 << 14), end)])

            def log_message(self, *args):
                pass

            def handle(self):
                try:
                    super().handle()
                except ConnectionError:  # a client that was killed
                    pass

        return Handler


CONTENT = packed("zip", IMAGES)
