"""GPUs, driver, CUDA and NCCL from captured output (an H200 and its Ubuntu) and from the forms that break readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

CASES = Path(__file__).parents[1] / "cases" / "discover" / "gpu"
UUID = "GPU-00000000-0000-0000-0000-00000000000{}"
MIB = 1 << 20


@pytest.fixture
def gpu(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_gpu")


def case(name: str) -> str:
    return (CASES / name).read_text()


def smi(name: str) -> Callable[[list[str]], tuple[int, str, str]]:
    """nvidia-smi of a case."""
    return lambda argv: (0, case(f"{name}{'.apps' if 'compute-apps' in argv[1] else ''}.csv"), "")


def test_an_h200_and_who_uses_it(gpu: ModuleType) -> None:
    cards, told = gpu.gpus(smi("h200"), {417: "triton"}.get)
    assert cards == [
        {
            "index": 0,
            "uuid": UUID.format(1),
            "name": "NVIDIA H200",
            "compute_capability": "9.0",
            "memory_total": 143771 * MIB,
            "memory_free": 143156 * MIB,
            "mig": False,
            "processes": [{"pid": 417, "name": "python3", "memory": 518 * MIB, "container": "triton"}],
        }
    ]
    assert told == {"version": "580.159.04", "reason": None}


def test_what_a_card_does_not_tell_is_none(gpu: ModuleType) -> None:
    cards, told = gpu.gpus(smi("two_geforce"), lambda pid: None)
    assert [card["mig"] for card in cards] == [None, None]
    assert (cards[1]["memory_total"], cards[1]["memory_free"]) == (None, None)
    assert [p["pid"] for card in cards for p in card["processes"]] == [202, 101]
    assert (cards[0]["processes"][0]["name"], cards[1]["processes"][0]["memory"]) == (None, None)
    assert told["version"] == "575.57.08"


def test_mig_is_seen(gpu: ModuleType) -> None:
    assert gpu.gpus(smi("mig"), lambda pid: None)[0][0]["mig"] is True


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((18, case("mismatch.txt"), ""), "Driver/library version mismatch NVML library version: 580.95"),
        ((6, case("no_devices.txt"), ""), "No devices were found"),
        ((0, case("no_devices.txt"), ""), "No devices were found"),
        ((0, "", ""), "lists no device"),
        ((127, "", "nvidia-smi: No such file or directory"), "nvidia-smi: No such file"),
        ((124, "", "nvidia-smi did not end in 30 s"), "did not end"),
        ((9, "", ""), "ended with 9"),
    ],
)
def test_without_cards_there_is_a_reason(gpu: ModuleType, answer: tuple[int, str, str], reason: str) -> None:
    cards, told = gpu.gpus(lambda argv: answer, lambda pid: None)
    assert (cards, told["version"]) == ([], None)
    assert reason in told["reason"]


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "version", "flavour"),
    [("open", "580.159.04", "open"), ("proprietary", "535.183.01", "proprietary")],
)
def test_the_loaded_module(gpu: ModuleType, tmp_path: Path, name: str, version: str, flavour: str) -> None:
    put(tmp_path, "proc/driver/nvidia/version", case(f"{name}.version"))
    found = gpu.driver({"version": version, "reason": None}, tmp_path)
    assert (found["module_version"], found["flavour"], found["reason"]) == (version, flavour, None)


def test_a_library_that_is_newer_than_the_module_wants_a_reboot(gpu: ModuleType, tmp_path: Path) -> None:
    put(tmp_path, "proc/driver/nvidia/version", case("open.version"))
    assert "reboot" in gpu.driver({"version": "580.999.01", "reason": None}, tmp_path)["reason"]


def test_no_module_is_no_flavour(gpu: ModuleType, tmp_path: Path) -> None:
    found = gpu.driver({"version": None, "reason": "none"}, tmp_path)
    assert (found["module_version"], found["flavour"], found["reason"]) == (None, None, "none")


@pytest.mark.parametrize(
    ("content", "wanted"), [(None, None), (b"\x06\0\0\0\1", True), (b"\x06\0\0\0\0", False), (b"", False)]
)
def test_secure_boot(gpu: ModuleType, tmp_path: Path, content: bytes | None, wanted: bool | None) -> None:
    variables = tmp_path / "efi" / "efivars"
    assert gpu.secure_boot(tmp_path / "efi") is False
    variables.mkdir(parents=True)
    if content is not None:
        (variables / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(content)
    assert gpu.secure_boot(tmp_path / "efi") is wanted


def test_toolkits_of_folders_and_packages(gpu: ModuleType, tmp_path: Path) -> None:
    put(tmp_path, "cuda-12.8/version.json", '{"cuda": {"name": "CUDA SDK", "version": "12.8.1"}}')
    put(tmp_path, "cuda-11.8/version.json", "{")
    (tmp_path / "cuda-13.0").mkdir()
    (tmp_path / "cuda-13").symlink_to(tmp_path / "cuda-13.0")
    found, nccl = gpu.toolkits_and_nccl(lambda argv: (1, case("dpkg_removed.txt"), "no packages found"), tmp_path)
    assert found == ["11.8", "12.0", "12.4", "12.8", "13.0"]
    assert nccl == {"package": None}


def test_nccl_of_a_real_host(gpu: ModuleType, tmp_path: Path) -> None:
    found, nccl = gpu.toolkits_and_nccl(lambda argv: (1, case("dpkg_h200.txt"), ""), tmp_path)
    assert (found, nccl) == ([], {"package": "2.28.3-1+cuda13.0"})
    assert gpu.toolkits_and_nccl(lambda argv: (127, "", ""), tmp_path) == ([], {"package": None})
