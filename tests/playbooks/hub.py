"""A stand-in for a model hub: Hugging Face's API and ModelScope's over files in memory, with faults on request."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "1234567890abcdef1234567890abcdef12345678"
LARGE = (".safetensors", ".bin", ".gguf", ".engine")


@dataclass
class Faults:
    """What goes wrong: the token that is asked for, bytes after which connections break (for so many answers), files
    whose sha256 is wrong, Range that is ignored, answers that say 503 first."""

    token: str = ""
    cut_after: int = 0
    cuts: int = 0
    wrong: set[str] = field(default_factory=set)
    ignores_range: bool = False
    busy: int = 0
    store: str = ""


@dataclass
class StandIn:
    """The running hub: its address, files and faults, and every request that it got."""

    files: dict[str, bytes]
    faults: Faults
    card: dict[str, Any] = field(default_factory=dict)
    url: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def ranges(self, name: str) -> list[str]:
        """The Range of every request for a file."""
        return [headers.get("Range", "") for path, headers in self.requests if path.endswith(name)]


def git_blob(content: bytes) -> str:
    """What git calls a content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextmanager
def serving(files: dict[str, bytes], faults: Faults | None = None, **more: Any) -> Iterator[StandIn]:
    """Serve these files as `acme/model` at COMMIT, branch main (master) and tag v1."""
    hub = StandIn(files, faults or Faults(), **more)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection with what the hub holds."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: StandIn, *given: Any) -> None:
        self.hub = hub
        super().__init__(*given)

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.hub.requests.append((unquote(self.path), dict(self.headers)))
        split = urlsplit(self.path)
        faults = self.hub.faults
        if split.path.startswith("/store/"):
            return self._file(unquote(split.path).removeprefix("/store/"))
        if faults.token and self.headers.get("Authorization") != f"Bearer {faults.token}":
            return self._json(401, {"error": "Invalid username or password."})
        if faults.busy:
            faults.busy -= 1
            return self._json(503, {})
        if split.path.startswith("/api/v1/models/"):
            return self._modelscope(split.path, parse_qs(split.query))
        if split.path.startswith("/api/models/"):
            return self._listing(split.path)
        return self._resolve(unquote(split.path))

    def _listing(self, path: str) -> None:
        repository, _, revision = path.removeprefix("/api/models/").partition("/revision/")
        if repository != "acme/model":
            return self._json(404, {}, {"X-Error-Code": "RepoNotFound"})
        if revision not in {"main", "v1", COMMIT}:
            return self._json(404, {}, {"X-Error-Code": "RevisionNotFound"})
        siblings = [self._sibling(name, content) for name, content in self.hub.files.items()]
        return self._json(200, {"sha": COMMIT, "siblings": siblings, "cardData": self.hub.card})

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        one: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_blob(content)}
        if name.endswith(LARGE):
            one["lfs"] = {"sha256": self._sha256(name, content), "size": len(content), "pointerSize": 134}
        return one

    def _sha256(self, name: str, content: bytes) -> str:
        return "0" * 64 if name in self.hub.faults.wrong else hashlib.sha256(content).hexdigest()

    def _modelscope(self, path: str, query: dict[str, list[str]]) -> None:
        if not path.startswith("/api/v1/models/acme/model/"):
            return self._json(404, {"Code": 10010205001, "Message": "record not found", "Success": False})
        revision = query["Revision"][0]
        known = revision in {"master", "v1", COMMIT}
        if path.endswith("/repo/files"):
            files = [{"Path": "sub", "Name": "sub", "Type": "tree", "Size": 0}]
            for name, content in self.hub.files.items():
                told = {"Path": name, "Type": "blob", "Size": len(content), "Revision": COMMIT}
                files.append(told | {"Sha256": self._sha256(name, content)})
            last = {"Id": "", "ShortId": COMMIT[:8]}
            data = {"Files": files if known else None, "LatestCommitter": last if known else None}
            return self._json(200, {"Code": 200, "Success": True, "Data": data})
        return self._file(query["FilePath"][0])

    def _resolve(self, path: str) -> None:
        name = path.removeprefix(f"/acme/model/resolve/{COMMIT}/")
        if name.endswith(LARGE) and self.hub.faults.store:
            self.send_response(302)
            self.send_header("Location", f"{self.hub.faults.store}/store/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return self._file(name)

    def _file(self, name: str) -> None:
        content = self.hub.files.get(name)
        if content is None:
            return self._json(404, {}, {"X-Error-Code": "EntryNotFound"})
        asked = self.headers.get("Range", "")
        start, end = 0, len(content) - 1
        if asked and not self.hub.faults.ignores_range:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or end), end)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        else:
            self.send_response(200)
        return self._body(content[start : end + 1])

    def _body(self, body: bytes) -> None:
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        faults = self.hub.faults
        if faults.cut_after and faults.cuts and len(body) > faults.cut_after:
            faults.cuts -= 1
            self.wfile.write(body[: faults.cut_after])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)

    def _json(self, status: int, told: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
