"""What is laid onto gpu01 before it starts, as one tar archive: pure, so that a test can look into it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from migrate.lab import names
from migrate.lab.secret import Secrets

OPERATOR_ID = 1000
PASSWORD_FILE = "/etc/lab-password"  # noqa: S105 - a path; gpu01 reads it once and removes it


@dataclass(frozen=True, slots=True)
class HostFile:
    """One file of gpu01."""

    path: str
    content: bytes
    mode: int = 0o644
    owner: int = 0


def host_files(lab: Path, trained: Path, secrets: Secrets, password: str) -> list[HostFile]:
    """The operator's files, the model repository with what was trained laid over it, and the lab's keys."""
    return [*_tree(lab / "host", ""), *_model_repository(lab, trained), *_keys(secrets, password)]


def pack(files: Iterable[HostFile]) -> bytes:
    """A tar archive of `files`, to be unpacked at the root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode, entry.uid, entry.gid = len(file.content), file.mode, file.owner, file.owner
            tar.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()


def _tree(source: Path, target: str) -> list[HostFile]:
    files = sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [HostFile(f"{target}/{file.relative_to(source)}", file.read_bytes()) for file in files]


def _model_repository(lab: Path, trained: Path) -> list[HostFile]:
    return [*_tree(lab / "triton", names.MODELS), *_tree(trained, names.MODELS)]


def _keys(secrets: Secrets, password: str) -> list[HostFile]:
    home = f"/home/{names.OPERATOR}/.ssh"
    public = secrets.identity.with_suffix(".pub").read_bytes()
    web = secrets.certificates
    return [
        HostFile(f"{home}/authorized_keys", public, 0o600, OPERATOR_ID),
        HostFile("/etc/ssh/ssh_host_ed25519_key", secrets.host_key.read_bytes(), 0o600),
        HostFile("/etc/ssh/ssh_host_ed25519_key.pub", secrets.host_key.with_suffix(".pub").read_bytes()),
        HostFile("/etc/nginx/tls/gpu01.crt", web.certificate.read_bytes()),
        HostFile("/etc/nginx/tls/gpu01.key", web.key.read_bytes(), 0o600),
        HostFile(PASSWORD_FILE, f"{names.OPERATOR}:{password}\n".encode(), 0o600),
    ]
