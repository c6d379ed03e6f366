"""The source that vLLM's image is built from: it comes from the mirror by hash, and patches are applied in order."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.playbooks.conftest import PLAYBOOKS

FILES = PLAYBOOKS / "roles" / "vllm_image" / "files"


class Mirror:
    """A package index on the loopback."""

    def __init__(self, folder: Path) -> None:
        self.redirect, self.seen = ("", ""), list[str | None]()
        mirror = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.seen.append(self.headers["Authorization"])
                begin, to = mirror.redirect
                if not begin or not self.path.startswith(begin):
                    return super().do_GET()
                self.send_response(302)
                self.send_header("Location", to + self.path)
                self.end_headers()
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.folder, self.address = folder, f"http://127.0.0.1:{self.server.server_port}/simple"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    (tmp_path / "simple" / "vllm").mkdir(parents=True)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "vllm-0.26.0.tar.gz").write_bytes(b"source")
    (tmp_path / "simple" / "vllm" / "index.html").write_text('<a href="../../files/vllm-0.26.0.tar.gz#sha256=x">v</a>')
    found = Mirror(tmp_path)
    yield found
    found.server.shutdown()
    found.server.server_close()


def fetch(mirror: Mirror, name: str, sha256: str) -> tuple[int, str, Path]:
    target = mirror.folder / "out.tar.gz"
    config = mirror.folder / "pip.conf"
    config.write_text(f"[global]\nindex-url = {mirror.address.replace('http://', 'http://user:word@')}\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment = kept | {"PIP_CONFIG_FILE": str(config), "no_proxy": "*"}
    argv = [sys.executable, str(FILES / "fetch.py"), name, sha256, str(target)]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60)
    return done.returncode, done.stdout, target


def test_the_source_comes_from_the_mirror_of_pip_s_configuration(mirror: Mirror) -> None:
    code, said, target = fetch(mirror, "vllm-0.26.0.tar.gz", hashlib.sha256(b"source").hexdigest())
    assert (code, said, target.read_bytes()) == (0, "", b"source")


@pytest.mark.parametrize("way", ["link", "redirect"])
def test_another_server_does_not_get_the_index_s_credentials(mirror: Mirror, way: str) -> None:
    with asked_for(b"source") as (store, seen):
        page = mirror.folder / "simple" / "vllm" / "index.html"
        if way == "link":
            page.write_text(f'<a href="{store}/vllm-0.26.0.tar.gz">v</a>')
        else:
            mirror.redirect = ("/files/", store)
        code, said, _ = fetch(mirror, "vllm-0.26.0.tar.gz", hashlib.sha256(b"source").hexdigest())
    assert (code, said, seen) == (0, "", [None])
    assert mirror.seen[0] == "Basic " + base64.b64encode(b"user:word").decode()


@contextlib.contextmanager
def asked_for(content: bytes) -> Iterator[tuple[str, list[str | None]]]:
    """A server on another port: its address, and the Authorization of each request."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


def test_a_source_with_another_hash_is_not_kept(mirror: Mirror) -> None:
    code, said, target = fetch(mirror, "vllm-0.26.0.tar.gz", "0" * 64)
    assert code == 1
    assert "migrate: vllm-0.26.0.tar.gz has sha256" in said
    assert not target.exists()


def test_a_release_that_the_mirror_lacks_is_named_without_the_password(mirror: Mirror) -> None:
    code, said, _ = fetch(mirror, "vllm-0.27.0.tar.gz", "0" * 64)
    assert code == 1
    assert "has no vllm-0.27.0.tar.gz" in said
    assert "word" not in said


def apply(tmp_path: Path, **patches: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.txt").write_text("one\n")
    (tmp_path / "patches").mkdir()
    for name, text in patches.items():
        (tmp_path / "patches" / f"{name}.patch").write_text(text)
    argv = ["bash", str(FILES / "apply.sh"), str(tmp_path / "src"), str(tmp_path / "patches")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def hunk(before: str, after: str) -> str:
    return f"--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-{before}\n+{after}\n"


def test_patches_are_applied_in_the_order_of_their_names(tmp_path: Path) -> None:
    done = apply(tmp_path, second=hunk("two", "three"), first=hunk("one", "two"))
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "src" / "a.txt").read_text() == "three\n"


def test_no_patch_is_fine(tmp_path: Path) -> None:
    assert apply(tmp_path).returncode == 0


def test_a_patch_that_does_not_fit_stops_the_build_with_its_name(tmp_path: Path) -> None:
    done = apply(tmp_path, first=hunk("one", "two"), second=hunk("one", "two"))
    assert done.returncode == 1
    assert "migrate: patch second.patch does not apply" in done.stdout
