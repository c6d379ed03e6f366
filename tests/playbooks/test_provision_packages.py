"""apt_packages against real apt and dpkg, each in a root of its own: refusals first, then there and back."""

from __future__ import annotations

import fcntl
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.playbooks.apt_root import AptRoot, Deb, is_possible

pytestmark = pytest.mark.skipif(not is_possible(), reason="needs root, apt, dpkg and gpg")

CUDA = "NVIDIA CUDA"
NCCL = ("2.26.2-1+cuda12.8", "2.26.5-1+cuda12.9", "2.28.9-1+cuda13.0")
DRIVERS = ("570.172.08", "580.126.20", "580.178.04")
DRIVER = ["nvidia-*", "libnvidia-*", "cuda-drivers*"]
PIN = "Package: nvidia-* libnvidia-*\nPin: version 580.*\nPin-Priority: 1000\n"


def driver(version: str, suffix: str) -> list[Deb]:
    """A driver in three packages, as the CUDA repository names them."""
    replaces = {"Provides": "libnvidia-compute", "Conflicts": "libnvidia-compute", "Replaces": "libnvidia-compute"}
    exact = f"(= {version}-0ubuntu1)"
    return [
        Deb(f"nvidia-open{suffix}", f"{version}-0ubuntu1", {"Depends": f"nvidia-driver{suffix}-open {exact}"}),
        Deb(f"nvidia-driver{suffix}-open", f"{version}-0ubuntu1", {"Depends": f"libnvidia-compute{suffix} {exact}"}),
        Deb(f"libnvidia-compute{suffix}", f"{version}-0ubuntu1", replaces),
    ]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AptRoot]:
    """One CUDA repository for all tests of this file: building packages takes most of the time."""
    apt = AptRoot(tmp_path_factory.mktemp("shared"))
    packages = [Deb(name, version) for name in ("libnccl2", "libnccl-dev") for version in NCCL]
    packages += [deb for version in DRIVERS for deb in driver(version, f"-{version[:3]}")]
    packages += driver("590.48.01", "")
    packages += [
        Deb("nvidia-open", "580.178.04-0ubuntu1", {"Depends": "nvidia-open-580 (= 580.178.04-0ubuntu1)"}),
        Deb("cuda-toolkit-12-8", "12.8.1-1"),
        Deb("cuda-toolkit-12-9", "12.9.1-1"),
        Deb("cuda", "12.9.1-1", {"Depends": "cuda-toolkit-12-9, nvidia-open"}),
        Deb("broken", "1", scripts={"postinst": "exit 1"}),
        Deb(
            "nvidia-driver-pinning-580",
            "580-1ubuntu1",
            files={"/etc/apt/preferences.d/nvidia-driver-pinning-580": PIN},
        ),
    ]
    apt.repository("cuda", packages, label=CUDA)
    yield apt
    apt.close()


@pytest.fixture
def apt(shared: AptRoot, tmp_path: Path) -> AptRoot:
    """A fresh root that knows the CUDA repository."""
    fresh = AptRoot(tmp_path)
    fresh.gnupg.rmdir()
    fresh.gnupg.symlink_to(shared.gnupg)
    fresh.know(f"file:{shared.repositories / 'cuda'}")
    return fresh


@pytest.fixture
def module(library: Callable[[str], ModuleType]) -> ModuleType:
    return library("apt_packages")


@pytest.fixture
def bring(module: ModuleType, apt: AptRoot, tmp_path: Path) -> Callable[..., Any]:
    """Run the module's function in the root."""

    def run(*packages: str, dry: bool = False, state: str = "present", **more: Any) -> Any:
        params = {
            "packages": list(packages),
            "origin": CUDA,
            "one_origin": [],
            "may_change": [],
            "never": [],
            "undo": [],
            "record": str(tmp_path / "record.json"),
            "keep_dir": str(tmp_path / "debs"),
            "boot_free_mib": 0,
            "lock_timeout_s": 5,
            "may_be_unknown": False,
            **more,
        }
        return getattr(module, state)(params, module.Place(apt.run, apt.root), dry=dry)

    return run


def refused(module: ModuleType, text: str) -> Any:
    return pytest.raises(module.Refused, match=text)


@pytest.mark.parametrize("is_look", [True, False], ids=["a look", "not a look"])
def test_a_look_leaves_no_cache_on_the_host(
    utility: Callable[[str], ModuleType], module: ModuleType, apt: AptRoot, tmp_path: Path, is_look: bool
) -> None:
    params = {"packages": ["libnccl2"], "origin": CUDA, "record": str(tmp_path / "r"), "keep_dir": str(tmp_path / "k")}
    params |= {"one_origin": [], "may_change": [], "never": [], "undo": [], "boot_free_mib": 0, "lock_timeout_s": 5}
    for cache in (apt.root / "var/cache/apt").glob("*pkgcache.bin"):
        cache.unlink()
    run = utility("migrate_apt").looking(apt.run) if is_look else apt.run
    assert module.present(params | {"may_be_unknown": False}, module.Place(run, apt.root), dry=True)
    assert any((apt.root / "var/cache/apt").glob("*pkgcache.bin")) is not is_look


def test_a_version_that_was_never_built_fails_with_the_candidates(
    module: ModuleType, bring: Callable[..., Any], apt: AptRoot
) -> None:
    with refused(module, r"libnccl2 2.26.5-1\+cuda12.8 from 'NVIDIA CUDA' is not to be had") as told:
        bring("libnccl2=2.26.5-1+cuda12.8")
    assert all(version in str(told.value) for version in NCCL)
    assert apt.versions() == {}


def test_an_unknown_branch_fails_with_the_names_that_there_are(module: ModuleType, bring: Callable[..., Any]) -> None:
    with refused(module, "no source knows a package nvidia-open-585.*apt-get update") as told:
        bring("nvidia-open-585=585.*")
    assert "nvidia-open-570, nvidia-open-580" in str(told.value)


def test_a_driver_never_crosses_to_another_origin(module: ModuleType, bring: Callable[..., Any], apt: AptRoot) -> None:
    ubuntu = [Deb("libnvidia-compute-580", "580.173.02-0ubuntu0.24.04.1")]
    apt.know(apt.repository("ubuntu", ubuntu, label="Ubuntu", origin="Ubuntu"), name="ubuntu")
    apt.install("libnvidia-compute-580=580.173.02-0ubuntu0.24.04.1")
    with refused(module, "is from Ubuntu, asked for is 'NVIDIA CUDA'.*provision_driver_source"):
        bring("nvidia-open-580=580.*", one_origin=DRIVER, may_change=DRIVER)
    assert apt.versions() == {"libnvidia-compute-580": "580.173.02-0ubuntu0.24.04.1"}


def test_a_driver_whose_version_left_the_index_is_refused_where_two_origins_offer_it(
    module: ModuleType, bring: Callable[..., Any], apt: AptRoot, tmp_path: Path
) -> None:
    gone = [apt.build(deb, tmp_path) for deb in driver("580.65.06", "-580")]
    apt.install(*map(str, gone))
    keep = tmp_path / "debs"
    keep.mkdir()
    for file in gone:
        file.rename(keep / file.name)
    assert bring("nvidia-open-580=580.178.*", one_origin=DRIVER, may_change=DRIVER, dry=True)
    ubuntu = [Deb("libnvidia-compute-580", "580.173.02-0ubuntu0.24.04.1")]
    apt.know(apt.repository("ubuntu", ubuntu, label="Ubuntu", origin="Ubuntu"), name="ubuntu")
    before = apt.versions()
    with refused(module, "libnvidia-compute-580 580.65.06.*cannot be told where it came from.*Ubuntu.*apt-get purge"):
        bring("nvidia-open-580=580.178.*", one_origin=DRIVER, may_change=DRIVER)
    assert apt.versions() == before
    assert bring("nvidia-open-580=580.*", one_origin=DRIVER, may_change=DRIVER) == []


def test_a_metapackage_that_would_bring_a_driver_is_refused(module: ModuleType, bring: Callable[..., Any]) -> None:
    with refused(module, "cuda would bring .*nvidia-open.* which is not asked for"):
        bring("cuda", never=["nvidia-open*", "libnvidia-compute*"])


def test_what_others_need_is_not_changed(module: ModuleType, bring: Callable[..., Any], apt: AptRoot) -> None:
    apt.install("nvidia-open-570")
    before = apt.versions()
    with refused(module, "would change what others need: .*libnvidia-compute-570 570.172.08-0ubuntu1 → removed"):
        bring("libnvidia-compute-580=580.*")
    assert apt.versions() == before


def test_a_hold_is_respected_and_named(module: ModuleType, bring: Callable[..., Any], apt: AptRoot) -> None:
    apt.install(f"libnccl2={NCCL[0]}")
    apt.must("apt-mark", "hold", "libnccl2")
    with refused(module, "on hold: libnccl2.*apt-mark unhold libnccl2"):
        bring(f"libnccl2={NCCL[1]}", may_change=["libnccl*"])
    assert apt.versions() == {"libnccl2": NCCL[0]}


def test_a_hold_on_the_old_driver_is_named_instead_of_what_apt_makes_of_it(
    module: ModuleType, bring: Callable[..., Any], apt: AptRoot
) -> None:
    apt.install("nvidia-open-570")
    apt.must("apt-mark", "hold", "nvidia-open-570")
    with refused(module, "on hold: nvidia-open-570.*apt-mark unhold nvidia-open-570"):
        bring("nvidia-open-580=580.*", may_change=DRIVER)


def test_an_interrupted_dpkg_is_named_with_its_repair(
    module: ModuleType, bring: Callable[..., Any], apt: AptRoot
) -> None:
    status = apt.root / "var/lib/dpkg/status"
    status.write_text(
        "Package: half\nStatus: install ok unpacked\nMaintainer: t\nArchitecture: amd64\nVersion: 1\n"
        "Description: half\n there\n\n"
    )
    with refused(module, r"dpkg was interrupted earlier \(half\).*dpkg --configure -a"):
        bring(f"libnccl2={NCCL[1]}")


def _hold_lock(path: str, has_it: Event, may_go: Event) -> None:
    with open(path, "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        has_it.set()
        may_go.wait(30)


@pytest.fixture
def other_apt(apt: AptRoot) -> Iterator[Event]:
    """A process that holds dpkg's lock until the event is set."""
    spawn = multiprocessing.get_context("fork")
    has_it, may_go = spawn.Event(), spawn.Event()
    lock = str(apt.root / "var/lib/dpkg/lock-frontend")
    process = spawn.Process(target=_hold_lock, args=(lock, has_it, may_go))
    process.start()
    assert has_it.wait(10)
    yield may_go
    may_go.set()
    process.join(10)


def test_another_apt_is_waited_for_with_a_limit(
    module: ModuleType, bring: Callable[..., Any], other_apt: Event
) -> None:
    with refused(module, r"\(process \d+\) has held /var/lib/dpkg/lock-frontend for 0.2 s"):
        bring(f"libnccl2={NCCL[1]}", lock_timeout_s=0.2)


def test_when_the_other_apt_ends_the_work_goes_on(
    utility: Callable[[str], ModuleType], apt: AptRoot, other_apt: Event
) -> None:
    utility("migrate_apt").wait_for_locks(apt.root, 10, sleep=lambda _: other_apt.set())


def test_a_full_boot_is_named(module: ModuleType, bring: Callable[..., Any]) -> None:
    with refused(module, r"boot has \d+ MiB free, an initramfs needs 99999999.*autoremove"):
        bring(f"libnccl2={NCCL[1]}", boot_free_mib=99_999_999)


def test_without_the_old_file_there_is_no_way_back_and_so_no_change(
    module: ModuleType, bring: Callable[..., Any], apt: AptRoot, tmp_path: Path
) -> None:
    apt.install(str(apt.build(Deb("libnccl2", "2.20.0-1"), tmp_path)))
    with refused(module, "libnccl2 2.20.0-1.*in no source any more.*dpkg-repack libnccl2"):
        bring(f"libnccl2={NCCL[1]}", may_change=["libnccl*"])
    assert apt.versions() == {"libnccl2": "2.20.0-1"}


def test_a_package_that_fails_half_way_is_taken_back(
    module: ModuleType, bring: Callable[..., Any], apt: AptRoot
) -> None:
    with refused(module, "broken.*put back to their versions before"):
        bring("broken")
    assert apt.versions() == {}
    assert apt.must("dpkg", "--audit") == ""
    assert bring(state="restored") == []


def test_check_mode_tells_the_same_changes_and_makes_none(bring: Callable[..., Any], apt: AptRoot) -> None:
    apt.install(f"libnccl2={NCCL[0]}")
    asked = [f"libnccl2={NCCL[1]}", f"libnccl-dev={NCCL[1]}"]
    told = bring(*asked, dry=True)
    assert apt.versions() == {"libnccl2": NCCL[0]}
    assert bring(*asked) == told
    assert apt.versions() == {"libnccl2": NCCL[1], "libnccl-dev": NCCL[1]}


def test_check_mode_before_the_repository_is_known(module: ModuleType, bring: Callable[..., Any], apt: AptRoot) -> None:
    (apt.root / "etc/apt/sources.list.d/lab.list").unlink()
    assert [change.name for change in bring("cuda-toolkit-12-8", dry=True, may_be_unknown=True)] == [
        "cuda-toolkit-12-8"
    ]
    with refused(module, "no source knows"):
        bring("cuda-toolkit-12-8", may_be_unknown=True)


def test_the_second_run_changes_nothing_even_where_a_newer_one_is_there(
    bring: Callable[..., Any], apt: AptRoot
) -> None:
    apt.install("nvidia-open-580=580.126.20-0ubuntu1", "nvidia-driver-580-open=580.126.20-0ubuntu1",
                "libnvidia-compute-580=580.126.20-0ubuntu1")  # fmt: skip
    assert bring("nvidia-open-580=580.*", may_change=DRIVER) == []


def test_the_driver_changes_branch_and_goes_back_package_by_package(
    bring: Callable[..., Any], apt: AptRoot, tmp_path: Path
) -> None:
    apt.install("nvidia-open-570")
    before, automatic = apt.versions(), apt.must("apt-mark", "showauto")
    bring("nvidia-driver-pinning-580")
    bring("nvidia-open-580=580.*", one_origin=DRIVER, may_change=DRIVER)
    assert apt.versions()["libnvidia-compute-580"] == "580.178.04-0ubuntu1"
    assert not {"nvidia-open-570", "libnvidia-compute-570"} & apt.versions().keys()
    assert len(list((tmp_path / "debs").glob("*570*.deb"))) == 3
    (apt.root / "etc/apt/sources.list.d/lab.list").unlink()
    bring(state="restored", may_change=DRIVER)
    assert apt.versions() == before
    assert apt.must("apt-mark", "showauto") == automatic
    assert not (apt.root / "etc/apt/preferences.d/nvidia-driver-pinning-580").exists()
    assert bring(state="restored") == []


def test_the_pin_keeps_the_unversioned_name_on_the_branch(bring: Callable[..., Any], apt: AptRoot) -> None:
    assert "580" not in str(bring("nvidia-open", dry=True))
    bring("nvidia-driver-pinning-580")
    assert "590" not in apt.must("apt-get", "install", "--simulate", "nvidia-open")


def test_one_step_is_taken_back_while_the_record_stays(
    module: ModuleType, bring: Callable[..., Any], apt: AptRoot, tmp_path: Path
) -> None:
    bring(f"libnccl2={NCCL[0]}")
    changes = bring(f"libnccl2={NCCL[1]}", may_change=["libnccl*"])
    undo = [{"name": change.name, "before": change.before} for change in changes]
    bring(state="restored", undo=undo)
    assert apt.versions() == {"libnccl2": NCCL[0]}
    bring(state="restored")
    assert apt.versions() == {}


def test_going_back_does_not_remove_what_came_later(
    module: ModuleType, bring: Callable[..., Any], apt: AptRoot, tmp_path: Path
) -> None:
    bring("cuda-toolkit-12-8")
    apt.install(str(apt.build(Deb("site-app", "1", {"Depends": "cuda-toolkit-12-8"}), tmp_path)))
    with refused(module, "going back would change what came later: site-app 1 → removed"):
        bring(state="restored")
    assert set(apt.versions()) == {"cuda-toolkit-12-8", "site-app"}
