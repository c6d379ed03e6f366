"""The build of vLLM's image: its programs, each with a case that passes and one that fails, and what ended a build."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.playbooks.conftest import PLAYBOOKS

FILES = PLAYBOOKS / "roles" / "vllm_image" / "files"
CHECKS = PLAYBOOKS.parent / "checks"
CASES = Path(__file__).parent / "cases" / "image_build"


@pytest.fixture
def progress(library: Callable[[str], ModuleType]) -> ModuleType:
    return library("image_progress")


@pytest.mark.parametrize(
    ("case", "cause", "advice"),
    [
        ("out_of_memory", "Killed", "image_max_jobs"),
        ("cicc_killed", "'cicc' died due to signal 9", "image_max_jobs"),
        ("arch_missing", "the NVFP4 kernels for 12.0 were not compiled", "migrate continue"),
        ("abi_mismatch", "image_abi is fail: install the torch ==2.11.0", "migrate continue"),
        ("patch_fails", "patch 01-first.patch does not apply", "migrate continue"),
        ("no_torch_wheel", "torch==2.11.0", "image_torch_index"),
        ("disk_full", "No space left on device", "docker system df"),
        ("old_nvcc", "compute_120", "12.8 is the first"),
        ("certificate", "CERTIFICATE_VERIFY_FAILED", "image_ca_file"),
    ],
)
def test_what_ended_a_build_is_named_with_what_to_do(progress: ModuleType, case: str, cause: str, advice: str) -> None:
    told, what_to_do = progress.causes_end((CASES / f"{case}.log").read_text(), 1)
    assert cause in told
    assert advice in what_to_do
    assert not told.startswith("#")


def test_a_build_that_took_too_long_says_so(progress: ModuleType) -> None:
    told, advice = progress.causes_end("#14 8.0 [211/428] Building x.cu.o\n", progress.TIMED_OUT)
    assert told == "[211/428] Building x.cu.o"
    assert "image_build_timeout_s" in advice
    assert progress.causes_end("", 1)[0] == "the log is empty"


def test_progress_is_the_last_line_until_the_build_has_ended(progress: ModuleType, tmp_path: Path) -> None:
    assert progress.look(tmp_path, 0.0)["progress"] == "0 min, the log is empty"
    (tmp_path / "build.log").write_text("#14 8.0 [2/428] Building a.cu.o\n#14 9.0 [3/428] Building b.cu.o\n")
    (tmp_path / "began").touch()
    os.utime(tmp_path / "began", (0, 0))
    found = progress.look(tmp_path, 7261.0)
    assert (found["finished"], found["progress"]) == (False, "121 min, [3/428] Building b.cu.o")
    (tmp_path / "ended").write_text("1")
    assert progress.look(tmp_path, 7261.0)["code"] == 1


def test_a_build_that_nobody_works_at_is_not_waited_for(progress: ModuleType, tmp_path: Path) -> None:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    assert progress.is_dead(tmp_path, lambda: clock[0], sleep)
    assert clock[0] >= progress.GRACE_S
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not progress.is_dead(tmp_path, lambda: clock[0], sleep)
    (tmp_path / "ended").write_text("0")
    assert not progress.is_dead(tmp_path, lambda: clock[0], sleep)


def extension(path: Path, *archs: tuple[int, int], names: tuple[str, ...] = ()) -> None:
    """A file with fat binaries of these (kind, architecture), kind 2 machine code and 1 PTX, and function names."""
    body = b"".join(struct.pack("<HHIQ12xI8xQ16x", kind, 0x101, 64, 8, arch, 0) + b"\1" * 8 for kind, arch in archs)
    fat = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body
    path.write_bytes(b"\x7fELF" + fat + b"\0".join(name.encode() for name in names))


SM_120 = ("_Z23cutlass_scaled_mm_sm120", "_Z28cutlass_scaled_fp4_mm_sm120a", "run_fp4_blockwise_scaled_group_mm_sm120")


def lacking(folder: Path, *archs: str) -> list[str]:
    program = f"import sys; sys.path[:0] = [{str(FILES)!r}, {str(CHECKS)!r}]; import json, kernels, pathlib\n"
    program += f"print(json.dumps(kernels.lacking(pathlib.Path({str(folder)!r}), {list(archs)!r})))"
    argv = [sys.executable, "-B", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


def test_extensions_with_the_card_s_kernels_pass(tmp_path: Path) -> None:
    extension(tmp_path / "_C_stable_libtorch.abi3.so", (2, 90), (2, 120), names=SM_120)
    extension(tmp_path / "_moe_C_stable_libtorch.abi3.so", (2, 120))
    extension(tmp_path / "_vllm_fa3_C.abi3.so", (2, 90))
    assert lacking(tmp_path, "12.0") == []
    assert lacking(tmp_path, "12.1") == []


def test_an_architecture_that_is_missing_is_named_and_ptx_is_no_substitute(tmp_path: Path) -> None:
    extension(tmp_path / "_C_stable_libtorch.abi3.so", (2, 90), (1, 80), names=SM_120)
    extension(tmp_path / "_moe_C_stable_libtorch.abi3.so", (2, 120))
    told = lacking(tmp_path, "12.0")
    assert told == ["_C_stable_libtorch.abi3.so has no code for 12.0, it holds sm_90: see image_arch_list"]


@pytest.mark.parametrize(("absent", "kernel"), [(0, "scaled-mm"), (1, "NVFP4"), (2, "MoE")])
def test_a_kernel_that_was_not_compiled_is_named(tmp_path: Path, absent: int, kernel: str) -> None:
    names = tuple(name for index, name in enumerate(SM_120) if index != absent)
    extension(tmp_path / "_C_stable_libtorch.abi3.so", (2, 120), names=names)
    told = lacking(tmp_path, "12.0")
    assert len(told) == 1
    assert told[0].startswith(f"the {kernel} kernels for 12.0 were not compiled")


def test_a_build_without_extensions_fails_and_one_for_no_device_says_that_it_is_skipped(tmp_path: Path) -> None:
    assert "no extension that every model needs" in lacking(tmp_path, "12.0")[0]
    argv = [sys.executable, "-B", str(FILES / "kernels.py"), "empty", ""]
    environment = os.environ | {"PYTHONPATH": str(CHECKS)}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, "migrate: skipped" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("abi", "imports", "device", "code"),
    [
        ("pass", "inconclusive", "cuda", 0),
        ("inconclusive", "inconclusive", "cuda", 1),
        ("inconclusive", "inconclusive", "empty", 0),
        ("fail", "pass", "cuda", 1),
        ("pass", "fail", "cuda", 1),
    ],
)
def test_the_last_stage_takes_the_checks_verdicts(
    tmp_path: Path, abi: str, imports: str, device: str, code: int
) -> None:
    for name, verdict in (("image_abi", abi), ("vllm_import", imports)):
        found = {"verdict": verdict, "measured": "m", "advice": f"advice of {name}", "detail": ""}
        (tmp_path / f"{name}.py").write_text(f"print({json.dumps(found)!r})")
    argv = [sys.executable, str(FILES / "verdict.py"), str(tmp_path), device]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert ("advice of" in done.stdout) is (abi != "pass" or imports != "pass")


def fake_docker(folder: Path, script: str) -> dict[str, str]:
    (folder / "bin").mkdir()
    (folder / "bin" / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "docker").chmod(0o755)
    return os.environ | {"PATH": f"{folder / 'bin'}:/usr/bin-of-nobody"}


def build(folder: Path, environment: dict[str, str], timeout_s: int = 30) -> subprocess.CompletedProcess[str]:
    job = {"tag": "t:1", "arguments": {"A": "b c"}, "secrets": {"pip": "/p", "ca": ""}, "network": "host"}
    (folder / "build.json").write_text(json.dumps(job | {"timeout_s": timeout_s}))
    argv = [sys.executable, str(FILES / "build.py"), str(folder)]
    return subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60)


def test_a_build_passes_arguments_and_secrets_and_leaves_its_status(tmp_path: Path) -> None:
    script = (
        'case "$1" in --version) echo "Docker version 20.10.24";; buildx) exit 1;; *) printf "%s\\n" "$@"; exit 3; esac'
    )
    assert build(tmp_path, fake_docker(tmp_path, script)).returncode == 3
    assert (tmp_path / "ended").read_text() == "3"
    words = (tmp_path / "build.log").read_text().splitlines()
    assert words[words.index("--build-arg") + 1] == "A=b c"
    assert words[words.index("--secret") + 1] == "id=pip,src=/p"
    assert words.count("--secret") == 1
    assert words[-1] == str(tmp_path / "context")


def test_a_second_build_of_the_same_folder_does_not_start(tmp_path: Path) -> None:
    environment = fake_docker(
        tmp_path, 'case "$1" in --version) echo "Docker version 20.10.24";; buildx) exit 1;; esac'
    )
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert build(tmp_path, environment).returncode == 0
    assert not (tmp_path / "ended").exists()


def test_a_build_has_a_limit(tmp_path: Path) -> None:
    script = 'case "$1" in --version) echo "Docker version 20.10.24";; buildx) exit 1;; *) exec /bin/sleep 30;; esac'
    assert build(tmp_path, fake_docker(tmp_path, script), timeout_s=1).returncode == 124
    assert (tmp_path / "ended").read_text() == "124"


@pytest.mark.parametrize(("release", "plugin", "code"), [("20.10.24", 1, 0), ("28.2.2", 0, 0), ("28.2.2", 1, 1)])
def test_buildkit_is_looked_for(tmp_path: Path, release: str, plugin: int, code: int) -> None:
    script = f'case "$1" in --version) echo "Docker version {release}, build 1";; buildx) exit {plugin};; esac'
    environment = fake_docker(tmp_path, script)
    argv = [sys.executable, str(FILES / "build.py"), "--look"]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == code
    assert ("docker-buildx-plugin" in done.stdout) is bool(code)


def test_the_dockerfile_passes_its_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint is not installed: make lock, then make")
    done = subprocess.run([str(linter), str(FILES / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_role_copies_every_file_that_the_build_takes() -> None:
    tasks = yaml.safe_load((FILES.parent / "tasks" / "context.yml").read_text())
    copied = next(task["loop"] for task in tasks if task["name"] == "Copy the Dockerfile and its programs")
    assert copied == sorted(path.name for path in FILES.iterdir() if path.is_file())
