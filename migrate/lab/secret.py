"""The keys, passwords and certificates of a lab inventory; the sudo password lies in its vault file alone."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from migrate import bundled
from migrate.lab import cache as keep
from migrate.lab import command, names, tls

VAULT_TIMEOUT_S = 60
BECOME = "ansible_become_password"


@dataclass(frozen=True, slots=True)
class Secrets:
    """Where everything secret of one lab inventory lies."""

    inventory: Path

    @property
    def directory(self) -> Path:
        """Holds everything but the vault file; mode 0700."""
        return self.inventory / ".secrets"

    @property
    def vault(self) -> Path:
        """The encrypted variables of the lab."""
        return self.inventory / "group_vars" / "all" / "vault.yml"

    @property
    def vault_password(self) -> Path:
        """What opens the vault file."""
        return self.directory / "vault-password"

    @property
    def identity(self) -> Path:
        """The operator's private SSH key."""
        return self.directory / "id_ed25519"

    @property
    def host_key(self) -> Path:
        """The private SSH key of gpu01 itself."""
        return self.directory / "host_ed25519"

    @property
    def known_hosts(self) -> Path:
        """Pins gpu01's key."""
        return self.directory / "known_hosts"

    @property
    def certificates(self) -> tls.Certificates:
        """The lab's CA certificate and gpu01's certificate with its key."""
        return tls.Certificates(self.directory / "ca.crt", self.directory / "gpu01.crt", self.directory / "gpu01.key")

    def are_complete(self) -> bool:
        """Whether nothing is missing."""
        ssh = (self.identity, self.host_key, self.known_hosts)
        web = self.certificates
        files = (*ssh, self.vault, self.vault_password, web.authority, web.certificate, web.key)
        return all(file.exists() for file in files)

    def fingerprint(self) -> str:
        """Tells two makings of the secrets apart, and gives none away."""
        return keep.content_hash(self.known_hosts, self.identity.with_suffix(".pub"), self.vault)


def make(wanted: Secrets) -> None:
    """Make every secret anew."""
    remove(wanted)
    wanted.directory.mkdir(parents=True, mode=0o700)
    for key, comment in ((wanted.identity, "operator of the lab"), (wanted.host_key, names.HOST)):
        command.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(key)], timeout_s=30)
    public = wanted.host_key.with_suffix(".pub").read_text().split()
    wanted.known_hosts.write_text(f"[{names.ADDRESS}]:{names.SSH.outside} {public[0]} {public[1]}\n")
    tls.make(wanted.certificates)
    _write_private(wanted.vault_password, secrets.token_urlsafe(32) + "\n")
    wanted.vault.parent.mkdir(parents=True, exist_ok=True)
    variables = yaml.safe_dump({BECOME: secrets.token_urlsafe(18)})
    _write_private(wanted.vault, _vault(wanted, ["encrypt", "--output", "-"], variables.encode()).decode())


def sudo_password(wanted: Secrets) -> str:
    """The operator's sudo password, read from the vault file."""
    return str(yaml.safe_load(_vault(wanted, ["view", str(wanted.vault)]))[BECOME])


def remove(wanted: Secrets) -> None:
    """Leave no secret behind."""
    shutil.rmtree(wanted.directory, ignore_errors=True)
    wanted.vault.unlink(missing_ok=True)


def _vault(wanted: Secrets, words: list[str], stdin: bytes = b"") -> bytes:
    argv = [bundled.tool("ansible-vault"), words[0], "--vault-password-file", str(wanted.vault_password), *words[1:]]
    return command.run(argv, stdin=stdin, timeout_s=VAULT_TIMEOUT_S)


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
