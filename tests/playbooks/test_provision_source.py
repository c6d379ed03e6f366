"""apt_source against real apt and real signatures, in a root of its own: what must be refused, then there and back."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.playbooks.apt_root import AptRoot, Deb, is_possible
from tests.playbooks.conftest import PLAYBOOKS

pytestmark = pytest.mark.skipif(not is_possible(), reason="needs root, apt, dpkg and gpg")

KEYRING = "usr/share/keyrings/cuda-archive-keyring.asc"


@pytest.fixture
def apt(tmp_path: Path) -> Iterator[AptRoot]:
    root = AptRoot(tmp_path)
    root.repository("cuda", [Deb("libnccl2", "2.26.5-1+cuda12.9")], label="NVIDIA CUDA")
    yield root
    root.close()


@pytest.fixture
def module(library: Callable[[str], ModuleType]) -> ModuleType:
    return library("apt_source")


@pytest.fixture
def source(module: ModuleType, apt: AptRoot, tmp_path: Path) -> Callable[..., Any]:
    """Run the module's function in the root; `dry` and `state` aside, arguments are parameters."""

    def run(*, dry: bool = False, state: str = "present", fetch: Any = _read, **more: Any) -> Any:
        params: dict[str, Any] = dict.fromkeys(("key_url", "keyring_package", "keyring_url", "sha256", "pin"), "")
        params |= {"name": "cuda", "url": f"file:{apt.repositories / 'cuda'}", "suite": "./", "obsolete": []}
        params |= {"record_dir": str(tmp_path / "records"), "lock_timeout_s": 5, **more}
        return getattr(module, state)(params, module.Place(apt.run, fetch, apt.root), dry=dry)

    return run


def _read(url: str) -> bytes:
    return Path(url).read_bytes()


@pytest.fixture
def key(apt: AptRoot) -> dict[str, str]:
    """The parameter that names the repository's own key. Tests do without chroot, so lists name it by its full path."""
    return {"key_url": str(apt.key("lab"))}


@pytest.fixture(autouse=True)
def full_key_path(module: ModuleType, apt: AptRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt takes the path in `signed-by` as it is, and does not look for it below its own root."""
    original = module._wanted

    def wanted(params: dict[str, Any], place: Any) -> Any:
        bare, full = b"signed-by=/usr", f"signed-by={apt.root}/usr".encode()
        found = {path: content.replace(bare, full) for path, content in original(params, place).items()}
        return {path: content for path, content in found.items() if not path.exists() or path.read_bytes() != content}

    monkeypatch.setattr(module, "_wanted", wanted)


def sources(apt: AptRoot) -> dict[str, str]:
    """Everything that decides which packages are trusted."""
    folders = ("etc/apt/sources.list.d", "usr/share/keyrings", "etc/apt/preferences.d")
    return {str(p.relative_to(apt.root)): p.read_text() for f in folders for p in sorted((apt.root / f).glob("*"))}


def state(apt: AptRoot) -> dict[str, bytes]:
    """Every file of the root."""
    return {str(path.relative_to(apt.root)): path.read_bytes() for path in apt.root.rglob("*") if path.is_file()}


def test_a_wrong_signature_leaves_the_sources_as_they_were(
    module: ModuleType, source: Callable[..., Any], apt: AptRoot
) -> None:
    before = sources(apt)
    with pytest.raises(module.Refused, match="cannot be used.*The sources are as they were"):
        source(key_url=str(apt.key("somebody-else")))
    assert sources(apt) == before


@pytest.mark.parametrize("dry", [True, False], ids=["check mode", "for real"])
def test_an_index_changed_after_signing_is_refused(
    module: ModuleType, source: Callable[..., Any], apt: AptRoot, key: dict[str, str], dry: bool
) -> None:
    signed = apt.repositories / "cuda/InRelease"
    signed.write_text(signed.read_text().replace("NVIDIA CUDA", "NVIDIA CUDA 2"))
    with pytest.raises(module.Refused, match="cannot be used"):
        source(**key, dry=dry)
    assert sources(apt) == {}


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
def test_check_mode_looks_at_the_signature_and_leaves_nothing(
    module: ModuleType, source: Callable[..., Any], apt: AptRoot, keyring: dict[str, str], is_known: bool
) -> None:
    if is_known:
        source(**keyring)
    before = state(apt)
    assert source(**keyring, dry=True) == (not is_known, [])
    (apt.repositories / "cuda/InRelease").unlink()
    with pytest.raises(module.Refused, match="cannot be used"):
        source(**keyring, dry=True)
    assert state(apt) == before


def test_a_key_of_another_sum_is_refused(
    module: ModuleType, source: Callable[..., Any], apt: AptRoot, key: dict[str, str]
) -> None:
    with pytest.raises(module.Refused, match="has sha256 .* expected is 00"):
        source(**key, sha256="00")
    assert sources(apt) == {}


def test_the_second_run_changes_nothing_and_the_undo_leaves_nothing(
    source: Callable[..., Any], apt: AptRoot, key: dict[str, str]
) -> None:
    assert source(**key, dry=True) == (True, [])
    assert sources(apt) == {}
    assert source(**key) == (True, [])
    assert source(**key) == (False, [])
    assert "libnccl2" in apt.must("apt-cache", "madison", "libnccl2")
    assert source(state="restored")[0] is True
    assert sources(apt) == {}
    assert source(state="restored") == (False, [])


@pytest.mark.parametrize("name", ["libnvidia-container.list", "operators-own.list", "operators-own.sources"])
def test_a_second_entry_for_the_address_is_moved_aside_and_comes_back(
    source: Callable[..., Any], apt: AptRoot, key: dict[str, str], name: str
) -> None:
    address = f"file:{apt.repositories / 'cuda'}"
    text = f"deb [signed-by=/usr/share/keyrings/old.gpg] {address}/ ./\n"
    if name.endswith(".sources"):
        text = f"Types: deb\nURIs: {address}\nSuites: ./\nSigned-By: /usr/share/keyrings/old.gpg\n"
    rival = apt.root / "etc/apt/sources.list.d" / name
    rival.write_text(text)
    assert source(**key) == (True, [name])
    assert not rival.exists()
    apt.must("apt-get", "update")
    source(state="restored")
    assert rival.read_text() == text


def test_two_entries_with_other_keys_do_stop_apt(apt: AptRoot) -> None:
    """The trap itself: why a second entry has to go."""
    apt.know(f"file:{apt.repositories / 'cuda'}")
    (apt.root / "etc/apt/sources.list.d/old.list").write_text(
        f"deb [signed-by=/usr/share/keyrings/old.gpg] file:{apt.repositories / 'cuda'} ./\n"
    )
    rc, out, err = apt.run(["apt-get", "update"])
    assert rc != 0
    assert "Conflicting values set for option Signed-By" in out + err


def test_a_file_with_other_repositories_too_is_left_to_its_owner(
    module: ModuleType, source: Callable[..., Any], apt: AptRoot, key: dict[str, str]
) -> None:
    mixed = apt.root / "etc/apt/sources.list.d/site.list"
    mixed.write_text(f"deb file:{apt.repositories / 'cuda'} ./\ndeb http://archive.site noble main\n")
    with pytest.raises(module.Refused, match="site.list names .* beside http://archive.site"):
        source(**key)
    assert list(sources(apt)) == ["etc/apt/sources.list.d/site.list"]


@pytest.fixture
def keyring(apt: AptRoot, tmp_path: Path) -> dict[str, str]:
    """A keyring package as NVIDIA's: list, key and pin."""
    lists = f"deb [signed-by={apt.root / KEYRING}] file:{apt.repositories / 'cuda'} ./\n"
    pin = "Package: *\nPin: release l=NVIDIA CUDA\nPin-Priority: 600\n"
    files = {
        "/etc/apt/sources.list.d/cuda-ubuntu2404-x86_64.list": lists,
        "/etc/apt/preferences.d/cuda-repository-pin-600": pin,
        f"/{KEYRING}": apt.key("lab").read_text(),
    }
    file = apt.build(Deb("cuda-keyring", "1.1-1", files=files), tmp_path)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"keyring_package": "cuda-keyring", "keyring_url": str(file), "sha256": digest}


def test_the_keyring_brings_list_key_and_pin_and_goes_whole(
    source: Callable[..., Any], apt: AptRoot, keyring: dict[str, str]
) -> None:
    assert source(**keyring) == (True, [])
    assert source(**keyring) == (False, [])
    assert len(sources(apt)) == 3
    assert "600 file:" in apt.must("apt-cache", "policy")
    source(**keyring, state="restored")
    assert sources(apt) == {}
    assert apt.versions() == {}


def test_a_keyring_that_is_there_is_never_replaced_by_another_version(
    source: Callable[..., Any], apt: AptRoot, keyring: dict[str, str]
) -> None:
    apt.install(keyring["keyring_url"])
    assert source(**keyring) == (False, [])
    assert source(state="restored") == (False, [])
    assert apt.versions() == {"cuda-keyring": "1.1-1"}


@pytest.fixture
def vendor(keyring: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server with the keyring under the name that the role asks for, and no other."""
    defaults = yaml.safe_load((PLAYBOOKS / "roles/cuda_repository/defaults/main.yml").read_text())
    file = Path(keyring["keyring_url"])
    file.rename(file.with_name(defaults["cuda_repository_keyring_url"].rpartition("/")[2]))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(file.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("dry", [True, False], ids=["check mode", "for real"])
def test_the_keyring_of_old_guides_is_not_there_and_the_roles_is(
    module: ModuleType, source: Callable[..., Any], apt: AptRoot, keyring: dict[str, str], vendor: str, dry: bool
) -> None:
    def fetched(name: str) -> Any:
        return source(**keyring | {"keyring_url": f"{vendor}/{name}"}, fetch=module._over_http, dry=dry)

    with pytest.raises(module.Refused, match=r"cuda-keyring_1.0-1_all.deb cannot be fetched: HTTP Error 404.*address"):
        fetched("cuda-keyring_1.0-1_all.deb")
    assert (sources(apt), apt.versions()) == ({}, {})
    assert fetched("cuda-keyring_1.1-1_all.deb") == (True, [])
    assert apt.versions() == ({} if dry else {"cuda-keyring": "1.1-1"})


def test_the_pin_is_in_force_before_apt_knows_the_repository_and_goes_with_it(
    source: Callable[..., Any], apt: AptRoot, keyring: dict[str, str]
) -> None:
    """An Ubuntu driver must not be upgraded from the CUDA repository, which the keyring ranks at 600."""
    pin = "Package: libnccl2\nPin: release l=NVIDIA CUDA\nPin-Priority: -1\n"
    assert source(**keyring, pin=pin) == (True, [])
    assert "Candidate: (none)" in apt.must("apt-cache", "policy", "libnccl2")
    assert source(**keyring, pin=pin) == (False, [])
    assert source(**keyring) == (True, [])
    assert "Candidate: 2.26.5" in apt.must("apt-cache", "policy", "libnccl2")
    source(**keyring, state="restored")
    assert sources(apt) == {}


def test_a_refused_repository_takes_its_pin_along(module: ModuleType, source: Callable[..., Any], apt: AptRoot) -> None:
    with pytest.raises(module.Refused, match="cannot be used"):
        source(key_url=str(apt.key("somebody-else")), pin="Package: x\nPin: version 1\nPin-Priority: -1\n")
    assert sources(apt) == {}


def test_a_keyring_of_another_repository_is_taken_back(
    module: ModuleType, source: Callable[..., Any], apt: AptRoot, keyring: dict[str, str]
) -> None:
    with pytest.raises(module.Refused, match="brings no entry for http://mirror.*provision_cuda_repository_url"):
        source(**keyring, url="http://mirror/cuda")
    assert sources(apt) == {}
    assert apt.versions() == {}


def test_the_word_for_the_architecture_is_dpkgs_own(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH) /\n")
    (found,) = module.sources.entries(tmp_path, "arm64")
    assert found.address == "https://nvidia.github.io/libnvidia-container/stable/deb/arm64"
    assert module.sources.architecture(lambda argv: (0, "arm64\n", "")) == "arm64"
