"""Reads the repositories that apt's lists name, and whether one of them is signed as its list says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils import migrate_apt as apt
from ansible.module_utils.migrate_apt import Refused
from ansible.module_utils.migrate_host import Run

# apt.conf(5). Nothing but the signed list of files is fetched, and what a distribution hangs on an update is left out.
_ASIDE = """\
Dir::State::lists "{folder}/lists";
Acquire::IndexTargets::deb::Packages::DefaultEnabled "false";
Acquire::IndexTargets::deb::Translations::DefaultEnabled "false";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One repository of one list file."""

    path: Path
    address: str


def entries(folder: Path, architecture: str) -> Iterator[Entry]:
    """Every repository that apt's lists name (sources.list(5)), both formats; disabled ones are left out."""
    lists = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    for path in (path for path in lists if path.is_file()):
        text = path.read_text(errors="replace")
        if path.suffix == ".sources":
            for stanza in re.split(r"\n\s*\n", text):
                if re.search(r"^Enabled:\s*no\b", stanza, re.MULTILINE | re.IGNORECASE):
                    continue
                for uris in re.findall(r"^URIs:((?:.*)(?:\n[ \t]+.*)*)", stanza, re.MULTILINE | re.IGNORECASE):
                    yield from (Entry(path, bare(uri, architecture)) for uri in uris.split())
        elif path.suffix == ".list":
            pattern = r"^\s*deb(?:-src)?\s+(?:\[[^]]*\]\s+)?(\S+)"
            yield from (Entry(path, bare(uri, architecture)) for uri in re.findall(pattern, text, re.MULTILINE))


def bare(uri: str, architecture: str) -> str:
    """An address as it is compared: $(ARCH) filled in as apt does, no slash at its end."""
    return uri.replace("$(ARCH)", architecture).rstrip("/")


def architecture(run: Run) -> str:
    """dpkg's own, which apt puts in the place of $(ARCH)."""
    return run(["dpkg", "--print-architecture"])[1].strip()


def update(run: Run, root: Path, url: str, options: list[str]) -> None:
    """Read one repository's index, and hold any doubt about it for an error: raises Refused."""
    arch = architecture(run)
    address = bare(url, arch)
    lists = sorted({entry.path for entry in entries(root / "etc/apt", arch) if entry.address == address})
    if not lists:
        raise Refused(
            f"The keyring package brings no entry for {address}: provision_cuda_repository_url names another "
            "repository than the one whose keyring this is."
        )
    only = ["-o", f"Dir::Etc::SourceList={lists[0]}", "-o", "Dir::Etc::SourceParts=-", "-o", "APT::Get::List-Cleanup=0"]
    rc, out, err = run(["apt-get", "update", "-q", *options, "-o", "APT::Update::Error-Mode=any", *only])
    if rc != 0:
        raise Refused(
            f"{address} cannot be used: {apt.reason(err or out)}. See that the host reaches it and that the key is its "
            "own (a mirror is signed by the original's key), then go on."
        )


def look(run: Run, root: Path, url: str, files: Mapping[Path, bytes], folder: Path) -> None:
    """The same in an empty folder, with `files` as they would be below `root`; raises Refused."""
    for path, content in files.items():
        copy = folder / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    for listed in (folder / "etc/apt/sources.list.d").glob("*"):
        text = listed.read_text()
        for key in (folder / "usr/share/keyrings").glob("*"):
            text = text.replace(str(root / key.relative_to(folder)), str(key))
        listed.write_text(text)
    (folder / "lists/partial").mkdir(parents=True)
    config = folder / "apt.conf"
    config.write_text(_ASIDE.format(folder=folder))
    # apt fetches and verifies as a user of its own.
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    update(apt.looking(run), folder, url, ["-c", str(config)])
