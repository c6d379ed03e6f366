"""What the GPU checks read: programs of a small host, files of a toolkit, compiled libraries, processes and images."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from shared import in_image
from shared.archive import archived

from tests.checks.conftest import CHECKS, SmallHost
from tests.checks.test_gpu_cases import module

SMI = "0, NVIDIA H200, 9.0, 143771, 0, 580.159.04, Enabled\n"
PROC = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC version: 13\n"
LSPCI = "01:00.0 3D controller [0302]: NVIDIA Corporation GH100 [H200 SXM 141GB] [10de:2335] (rev a1)\n"
BRIDGE = "02:00.0 Bridge [0680]: NVIDIA Corporation GH100 [H100 NVSwitch] [10de:22a3] (rev a1)\n"
NVCC = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 12.8, V12.8.93\n"
UUID = "GPU-12345678-1234-1234-1234-123456789abc"
IMAGE = "registry.lab:5000/vllm-openai@sha256:" + "a" * 64


@pytest.fixture
def gpu_host(host: SmallHost) -> SmallHost:
    """A host with one H200, its driver, and the tools that look at them."""
    root = host.folder / "root"
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text(PROC)
    host.command("lspci", LSPCI + BRIDGE)
    host.command("nvidia-smi", "| NVIDIA-SMI 580.159.04   Driver Version: 580.159.04   CUDA Version: 13.0 |\n")
    host.command("nvidia-smi", SMI, when="--query-gpu=index")
    host.command("nvidia-smi", "9.0\n", when="--query-gpu=compute_cap")
    host.command("nvidia-smi", "NVIDIA H200\n", when="--query-gpu=name")
    host.command("nvidia-smi", f"GPU 0: NVIDIA H200 (UUID: {UUID})\n", when="-L")
    host.command("modinfo", "580.159.04\n", when="-F version")
    host.command("modinfo", "Dual MIT/GPL\n", when="-F license")
    host.command("dmesg", f"[1.0] NVRM: Xid (PCI:0000:01:00): 79, {UUID} has fallen off\n[2.0] usb 1-1: new device\n")
    return host


def test_gpu_driver_reads_bus_kernel_and_tools(gpu_host: SmallHost) -> None:
    rc, found = gpu_host.check("gpu_driver", nvidia_root=str(gpu_host.folder / "root"), show_raw=True)
    assert (rc, found["verdict"]) == (0, "pass"), found
    assert found["raw"]["pci"]["cards"] == 1, "an NVSwitch is no card"
    assert found["raw"]["log"] == ["[1.0] NVRM: Xid (PCI:0000:01:00): 79, GPU-… has fallen off"]
    tools = gpu_host.folder / "tools"
    tools.mkdir()
    (tools / "lspci").write_text("#!/bin/sh\n")
    (tools / "lspci").chmod(0o755)
    found = gpu_host.check("gpu_driver", nvidia_root=str(gpu_host.folder / "root"), nvidia_tools=str(tools))[1]
    assert found["measured"].startswith("0 on the bus"), "a folder of tools goes before the host's own"
    gpu_host.command("dpkg-query", "libnvidia-compute-580 580.178.04-0ubuntu1 installed\n")
    assert (
        "580.178.04 is installed"
        in gpu_host.check("gpu_driver", nvidia_root=str(gpu_host.folder / "root"))[1]["advice"]
    )


def test_cuda_toolkit_asks_the_compiler_and_compiles(gpu_host: SmallHost) -> None:
    local = gpu_host.folder / "local"
    nvcc = local / "cuda-12.8/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    says = f"case $1 in --version) echo '{NVCC}';; --list-gpu-arch) echo compute_90;; *) exit $FAIL;; esac"
    for rc, verdict in ((1, "fail"), (0, "pass")):
        nvcc.write_text(f"#!/bin/sh\n{says.replace('$FAIL', str(rc))}\n")
        nvcc.chmod(0o755)
        found = gpu_host.check(
            "cuda_toolkit", cuda_local=str(local), provision_manage=["cuda_toolkit"], provision_cuda_toolkit="12-8"
        )
        assert found[1]["verdict"] == verdict, found


def test_nccl_host_reads_packages_and_candidates(gpu_host: SmallHost) -> None:
    gpu_host.command("dpkg-query", "libnccl2 2.26.2-1+cuda12.8 installed\nlibnccl-dev 2.26.2-1+cuda12.8 config-files\n")
    gpu_host.command("apt-cache", "libnccl2 | 2.26.5-1+cuda12.9 | http://apt.lab/cuda  Packages\n")
    found = gpu_host.check("nccl_host", nccl_host_min_version="2.26.5", show_raw=True)[1]
    assert found["raw"]["packages"] == {"libnccl2": "2.26.2-1+cuda12.8"}
    assert found["detail"] == "candidates: 2.26.5-1+cuda12.9"
    assert "2.26.2-1+cuda12.8 is too old" in found["advice"]


def test_container_gpu_counts_in_a_new_and_in_a_running_container(gpu_host: SmallHost) -> None:
    config = '{"DeviceRequests": [{"Count": -1}], "Runtime": "runc"}'
    gpu_host.command("docker", f"GPU 0: NVIDIA H200 (UUID: {UUID})\n", when="run --rm")
    gpu_host.command("docker", f"true {config}\n", when="inspect")
    gpu_host.command("docker", "Failed to initialize NVML: Unknown Error\n", rc=255, when="exec triton")
    settings = {"vllm_image_digest": IMAGE, "triton_container": "triton", "vllm_gpus": "all"}
    rc, found = gpu_host.check("container_gpu", **settings, show_raw=True)
    assert (rc, found["verdict"]) == (1, "fail")
    assert "recreate the container" in found["advice"]
    assert UUID not in json.dumps(found)
    gpu_host.command("docker", f"GPU 0: NVIDIA H200 (UUID: {UUID})\n", when="exec")
    assert gpu_host.check("container_gpu", **settings)[1]["verdict"] == "pass"


def test_container_gpu_looks_into_the_container_of_the_runtime(gpu_host: SmallHost) -> None:
    gpu_host.command("podman", f"GPU 0: NVIDIA H200 (UUID: {UUID})\n", when="run --rm")
    gpu_host.command("podman", "true {}\n", when="inspect")
    gpu_host.command("podman", "Failed to initialize NVML: Unknown Error\n", rc=255, when="exec migrate-vllm")
    settings = {"vllm_image_digest": IMAGE, "vllm_gpus": "all", "vllm_runtime": "podman"}
    found = gpu_host.check("container_gpu", **settings, vllm_container="migrate-vllm")[1]
    assert (found["verdict"], "(container migrate-vllm)" in found["advice"]) == ("fail", True), found


def fat_binary(*entries: tuple[int, int, int]) -> bytes:
    """A container with an entry of 8 bytes for each kind, architecture and flags."""
    body = b"".join(
        struct.pack("<HHIQ12xI8xQ16x", kind, 0x101, 64, 8, arch, flags) + b"\1" * 8 for kind, arch, flags in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_the_code_of_an_extension(tmp_path: Path) -> None:
    check = module("vllm_import")
    path = tmp_path / "_C.abi3.so"
    path.write_bytes(
        b"\x7fELF" + b"\0" * 60 + fat_binary((2, 90, 1 << 20 | 17), (1, 80, 17)) + fat_binary((2, 120, 17), (2, 90, 17))
    )
    assert check.code(path) == ["sm_90", "sm_90a", "sm_120", "compute_80"]
    path.write_bytes(b"no code" + struct.pack("<I", 0xBA55ED50))
    assert check.code(path) == []
    path.write_bytes(fat_binary((2, 90, 17))[:-40])
    assert check.code(path) == []


@pytest.mark.parametrize(
    ("arch", "card", "runs"),
    [
        ("sm_90", "9.0", True),
        ("sm_80", "8.6", True),
        ("sm_86", "8.0", False),
        ("sm_80", "9.0", False),
        ("sm_90a", "9.0", True),
        ("sm_100a", "10.3", False),
        ("compute_80", "12.0", True),
        ("compute_90", "8.0", False),
        ("sm_120", "12.1", True),
    ],
)
def test_which_code_runs_on_which_card(arch: str, card: str, runs: bool) -> None:
    assert module("vllm_import").runs(arch, card) is runs


def compiled() -> Path:
    """A compiled module of Python: one that the tests need anyway."""
    spec = importlib.util.find_spec("pydantic_core._pydantic_core")
    assert spec is not None
    return Path(str(spec.origin))


def test_the_symbols_of_a_library() -> None:
    elf = module("image_abi").Elf(compiled())
    assert "PyErr_SetString" in set(elf.undefined())
    assert list(elf.exported()) == ["PyInit__pydantic_core"]
    assert "libc.so.6" in elf.needed()


def install(folder: Path, requires: str, extension: bytes) -> None:
    """A vllm and a torch that are just files."""
    for name, version, line in (("vllm", "0.26.0", f"Requires-Dist: torch{requires}\n"), ("torch", "2.11.0", "")):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
        (folder / f"{name}-{version}.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{line}"
        (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(metadata)
    (folder / "torch" / "version.py").write_text("cuda: Optional[str] = '13.0'\n")
    (folder / "vllm" / "_C.abi3.so").write_bytes(extension)


@pytest.mark.parametrize(("requires", "verdict"), [("==2.11.0", "pass"), ("==2.12.1", "fail"), (">=2.0", "pass")])
def test_image_abi_reads_metadata_and_files(tmp_path: Path, host: SmallHost, requires: str, verdict: str) -> None:
    install(tmp_path / "site", requires, compiled().read_bytes())
    argv = [sys.executable, str(Path("checks/image_abi.py").resolve()), "{}"]
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60)
    found = json.loads(done.stdout)
    assert (found["verdict"], found["versions"]["torch"]) == (verdict, "2.11.0"), found


def test_processes_that_hang_are_ended_and_those_that_wait_for_a_dead_one_too() -> None:
    check = module("nccl_allreduce")
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    hanging = [subprocess.Popen(sleep, start_new_session=True) for _ in range(2)]
    assert check._wait(hanging, time.monotonic() + 0.3) is False
    assert [process.returncode for process in hanging] == [-9, -9]
    dead = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"], start_new_session=True)
    waiting = subprocess.Popen(sleep, start_new_session=True)
    assert check._wait([dead, waiting], time.monotonic() + 50) is True
    assert waiting.returncode == -9


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_a_process_of_nccl_is_the_check_itself(tmp_path: Path, packed: bool) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch on purpose')\n")
    archive = tmp_path / "checks.pyz"
    archive.write_bytes(archived(CHECKS))
    start = (
        "import nccl_allreduce as check; process = check._start({'nccl_rank': 0}, {}, '.'); process.wait(60);"
        "print(check._answer(check.Path('0.out'), 0, process.returncode)['error'])"
    )
    environment = {"PYTHONPATH": f"{archive if packed else CHECKS}:{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-c", start], capture_output=True, text=True, env=environment, timeout=60, cwd=tmp_path
    )
    assert done.stdout == "ImportError: no torch on purpose\n", done.stderr


def test_what_a_process_said_last(tmp_path: Path) -> None:
    check = module("nccl_allreduce")
    path = tmp_path / "0.out"
    path.write_text('warning\n{"rank": {"rank": 0, "sizes": [], "error": "NCCL error"}}\n')
    assert check._answer(path, 0, 1)["error"] == "NCCL error"
    path.write_text("Segmentation fault\n")
    assert check._answer(path, 0, 1)["error"] == "Segmentation fault"
    assert check._answer(path, 0, -9) == {}, "it was ended while it waited"
    path.write_text("")
    assert check._answer(path, 0, -11)["error"] == "a process ended with -11"


IN_THE_IMAGE = ("torch_gpu", "nccl_allreduce", "vllm_import", "image_abi")


@pytest.mark.parametrize("check", IN_THE_IMAGE)
class TestInTheImage:
    def test_it_takes_little_of_the_host(self, check: str, host: SmallHost) -> None:
        host.command("docker", '{"verdict": "pass"}', when="run --rm")
        docker = host.folder / "bin/docker"
        docker.write_text(docker.read_text().replace("#!/bin/sh\n", f'#!/bin/sh\necho "$*" > {host.folder}/asked\n'))
        host.check(check, vllm_image_digest=IMAGE, vllm_environment={"NCCL_P2P_DISABLE": "1", "VLLM_X": "1"})
        asked = (host.folder / "asked").read_text()
        assert "--network none --memory " in asked
        assert f"--cpus {max(1, (os.cpu_count() or 1) // 2)} " in asked
        assert "--cpu-shares 512 --oom-score-adj 1000" in asked
        assert "--env=NCCL_P2P_DISABLE=1" in asked
        assert "--env=VLLM_X" not in asked
        assert "--gpus" not in asked

    def test_a_container_that_ends_without_a_word_tells_how(self, check: str, host: SmallHost) -> None:
        host.command("docker", "", rc=137)
        found = host.check(check, vllm_image_digest=IMAGE)[1]
        assert found["verdict"] == "inconclusive"
        assert re.match(r"ended with 137, had \d+g of memory", found["measured"])

    def test_no_docker(self, check: str, host: SmallHost) -> None:
        found = host.check(check, vllm_image_digest=IMAGE)[1]
        assert (found["verdict"], found["measured"]) == ("inconclusive", "docker is not installed")

    def test_it_hands_on_the_verdict_of_the_image(self, check: str, host: SmallHost) -> None:
        verdict = {"check": check, "verdict": "pass", "expected": "a", "measured": "b", "versions": {"torch": "2.11.0"}}
        host.command("docker", f"a line of the entry point\n{json.dumps(verdict)}\n", when="--gpus all --entrypoint")
        rc, found = host.check(check, vllm_image_digest=IMAGE, vllm_gpus="all")
        assert (rc, found["measured"], found["versions"]) == (0, "b", {"torch": "2.11.0"}), found

    def test_a_container_that_does_not_start_is_no_verdict(self, check: str, host: SmallHost) -> None:
        host.command("docker", "", rc=125, error="could not select device driver")
        rc, found = host.check(check, vllm_image_digest=IMAGE, vllm_gpus="all")
        assert (rc, found["verdict"]) == (2, "inconclusive")
        assert "could not select device driver" in found["measured"]
        assert "container_gpu" in found["advice"]

    def test_this_very_check_is_what_runs_there(self, check: str, host: SmallHost) -> None:
        docker = host.folder / "bin/docker"
        docker.parent.mkdir()
        docker.write_text(
            f'#!/bin/sh\n/bin/cat > {host.folder}/sent\necho "$*" > {host.folder}/asked\n'
            f'for last; do :; done\necho "$last" > {host.folder}/settings\n'
        )
        docker.chmod(0o755)
        host.check(check, vllm_image_digest=IMAGE, nccl_timeout_s=5)
        assert (host.folder / "sent").read_bytes() == archived(CHECKS)
        assert f"python3 /tmp/checks.pyz {check} " in (host.folder / "asked").read_text()
        settings = json.loads((host.folder / "settings").read_text())
        assert settings["nccl_timeout_s"] == 5
        assert "vllm_image_digest" not in settings
        assert settings["gpu_live"] is True, "nobody answers, and nobody said that the host serves nobody"

    @pytest.mark.parametrize(
        ("settings", "given"),
        [
            ({}, "--shm-size 1g"),
            ({"vllm_shm_size": "8g", "vllm_ipc": "private"}, "--shm-size 8g"),
            ({"vllm_shm_size": "8g", "vllm_ipc": "host"}, "--ipc host"),
        ],
    )
    def test_it_gets_the_shared_memory_of_the_deployed_container(
        self, check: str, host: SmallHost, settings: dict[str, str], given: str
    ) -> None:
        host.command("docker", '{"verdict": "pass", "measured": "so"}', when=given)
        assert host.check(check, vllm_image_digest=IMAGE, **settings)[1]["measured"] == "so"

    @pytest.mark.parametrize(
        ("answers", "settings", "live"),
        [
            ([503, 200, 503, 503, 503], {"gpu_live": False}, True),
            ([503], {"gpu_live": False}, False),
            ([503], {}, True),
        ],
    )
    def test_one_answer_of_five_is_a_live_host(
        self,
        check: str,
        monkeypatch: pytest.MonkeyPatch,
        answers: list[int],
        settings: dict[str, bool],
        live: bool,
    ) -> None:
        asked = iter(answers)
        monkeypatch.setattr(in_image, "_latency_s", lambda port, settings: 0.1 if next(asked, 503) == 200 else 0.0)
        started: list[list[str]] = []

        def watched(run: list[str], name: str, served: dict[int, float], *rest: object) -> tuple[str, str, str]:
            assert served == ({8000: 0.1} if 200 in answers else {})
            started.append(run)
            return "{}", "", ""

        monkeypatch.setattr(in_image, "_watched", watched)
        module(check).check({"vllm_image_digest": IMAGE, "triton_http_port": 8000, **settings})
        assert json.loads(started[0][-1])["gpu_live"] is live


@pytest.fixture(params=["slow", "gone"])
def tiring(request: pytest.FixtureRequest) -> Iterator[int]:
    """Port of a service that answers at once five times and then takes its time, or has none."""
    asked: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(time.monotonic())
            time.sleep(1.5 if len(asked) > 5 and request.param == "slow" else 0)
            self.send_response(503 if len(asked) > 5 and request.param == "gone" else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("port", ["triton_http_port", "gateway_port"])
def test_it_steps_back_where_the_service_slows_down(host: SmallHost, tiring: int, port: str) -> None:
    docker = host.folder / "bin/docker"
    docker.parent.mkdir()
    pid = host.folder / "pid"
    docker.write_text(
        f"#!/bin/sh\ncase $1 in run) echo $$ > {pid}; exec /bin/sleep 30;; rm) kill $(/bin/cat {pid});; esac\n"
    )
    docker.chmod(0o755)
    settings = {port: tiring, "triton_probe_model": "phi2"}
    rc, found = host.check("torch_gpu", vllm_image_digest=IMAGE, **settings)
    assert (rc, found["verdict"]) == (2, "inconclusive")
    assert found["measured"].startswith("stepped back: ")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
