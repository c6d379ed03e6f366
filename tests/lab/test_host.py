"""What gpu01 is made of, looked at without an engine."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import yaml

from migrate import bundled
from migrate.lab import LabError, files, host, names, rootfs, secret, tls

LAB = bundled.root() / "lab"


@pytest.fixture
def secrets(tmp_path: Path) -> secret.Secrets:
    made = secret.Secrets(tmp_path)
    made.directory.mkdir()
    for file in (made.identity.with_suffix(".pub"), made.host_key, made.host_key.with_suffix(".pub")):
        file.write_text("key")
    tls.make(made.certificates)
    return made


def test_container_is_not_privileged_and_listens_on_loopback_only() -> None:
    rights = host.container_spec("image", "content")["HostConfig"]
    assert "Privileged" not in rights
    assert rights["CapDrop"] == ["SYS_RESOURCE"]
    assert {binding["HostIp"] for (binding,) in rights["PortBindings"].values()} == {"127.0.0.1"}


def test_published_ports_do_not_collide() -> None:
    outside = [port.outside for port in names.PUBLISHED]
    assert len(set(outside)) == len(outside)


def test_archive_holds_the_model_repository_and_hides_the_keys(tmp_path: Path, secrets: secret.Secrets) -> None:
    for name in ("phi2", "qwen2"):
        weights = tmp_path / "trained" / name / "1" / "weights"
        weights.mkdir(parents=True)
        (weights / "model.safetensors").write_bytes(b"weights")
    packed = files.pack(files.host_files(LAB, tmp_path / "trained", secrets, "word"))
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        modes = {entry.name: entry.mode for entry in tar}
    assert "srv/triton/models/phi2/1/weights/model.safetensors" in modes
    assert "srv/triton/models/qwen2/1/weights/model.safetensors" in modes
    assert "srv/triton/models/phi2_stream/1/model.py" in modes
    private = [name for name in modes if name.endswith((".key", "_key", "lab-password"))]
    assert len(private) == 3
    assert {modes[name] for name in private} == {0o600}


def test_archive_needs_the_keys(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.host_files(LAB, tmp_path, secret.Secrets(tmp_path), "word")


def test_incomplete_secrets_are_told_from_complete_ones(secrets: secret.Secrets) -> None:
    assert not secrets.are_complete()
    for file in (secrets.identity, secrets.known_hosts, secrets.vault_password, secrets.vault):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    assert secrets.are_complete()


def test_root_filesystem_key_follows_its_packages() -> None:
    first = rootfs.RootFilesystem("host", "trixie", ("sudo",), None)
    assert first.key != rootfs.RootFilesystem("host", "trixie", ("sudo", "nginx"), None).key


def test_root_filesystem_script_that_is_missing_is_no_script() -> None:
    assert rootfs.read(LAB, "images").script is None
    assert rootfs.read(LAB, "host").script is not None


def test_an_unknown_root_filesystem_is_an_error() -> None:
    with pytest.raises(LabError, match="elsewhere"):
        rootfs.read(LAB, "elsewhere")


def test_compose_file_holds_triton_and_a_stranger() -> None:
    compose = yaml.safe_load((LAB / "host" / "opt" / "triton" / "compose.yml").read_text())
    assert set(compose["services"]) == {"triton", "statuspage"}
    assert "@sha256" not in compose["services"]["triton"]["image"]


def test_the_presented_system_says_what_it_is() -> None:
    text = (LAB / "host" / "usr" / "lib" / "os-release").read_text()
    assert 'VERSION_ID="24.04"' in text
    assert "Debian" not in text  # Ansible would call the system Debian
    assert "a debian 13 system that presents itself as Ubuntu 24.04" in text
