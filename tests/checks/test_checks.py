"""Each check once with a host that must fail it, and once with one that must not."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.checks.conftest import SmallHost
from tests.checks.test_gpu_cases import module

DIGEST = "registry.lab:5000/vllm-openai@sha256:" + "a" * 64
GENERATED = (200, json.dumps({"text_output": " return a + b"}))
STREAMED = (200, 'data: {"text_output":" return"}\n\ndata: {"text_output":" a"}\n\n')
SS = 'LISTEN 0 4096 127.0.0.1:18000 0.0.0.0:* users:(("other",pid=7,fd=4))\nLISTEN 0 511 [::]:80 [::]:*\n'
NGINX = "# configuration file /etc/nginx/nginx.conf:\nhttp { upstream t { server 127.0.0.1:8000; } }\n"


def failed(found: tuple[int, dict[str, Any]], *texts: str) -> None:
    rc, verdict = found
    assert (rc, verdict["verdict"]) == (1, "fail"), verdict
    assert verdict["advice"], "a failed check says what to type next"
    for text in texts:
        assert text in verdict["measured"] + verdict["detail"] + verdict["advice"]


def passed(found: tuple[int, dict[str, Any]]) -> None:
    rc, verdict = found
    assert (rc, verdict["verdict"]) == (0, "pass"), verdict


# os-release of the machine that the captures in the same folder are from.
REAL_OS = (Path(__file__).parents[1] / "cases" / "real-h200" / "os-release").read_text()


@pytest.mark.parametrize(
    ("text", "measured"),
    [
        ('ID=debian\nVERSION_ID="12"\n', "debian 12"),
        (REAL_OS.replace("24.04", "22.04"), "ubuntu 22.04"),
        (REAL_OS.replace("ID=ubuntu\n", "ID=linuxmint\n"), "linuxmint 24.04"),
        ("", ""),
    ],
    ids=["Debian", "an older Ubuntu", "a relative", "empty"],
)
def test_host_os_of_another_kind(host: SmallHost, text: str, measured: str) -> None:
    (host.folder / "os-release").write_text(text)
    failed(host.check("host_os", os_release=str(host.folder / "os-release")), measured)


@pytest.mark.parametrize("more", ["", 'LAB_NOTE="Debian that presents itself as Ubuntu"\n'], ids=["real", "lab"])
def test_host_os(host: SmallHost, more: str) -> None:
    (host.folder / "os-release").write_text(REAL_OS + more)
    passed(host.check("host_os", os_release=str(host.folder / "os-release")))


def test_host_os_without_its_file_cannot_tell(host: SmallHost) -> None:
    rc, verdict = host.check("host_os", os_release=str(host.folder / "none"))
    assert (rc, verdict["verdict"]) == (2, "error")


def test_disk_space(host: SmallHost) -> None:
    missing = str(host.folder / "not" / "yet")
    failed(host.check("disk_space", disk_space_needed={missing: 1 << 60}), missing)
    passed(host.check("disk_space", disk_space_needed={missing: 1}))


def test_disk_space_counts_models_and_weights(host: SmallHost) -> None:
    (host.folder / "weights").write_bytes(b"x" * 1000)
    found = host.check("disk_space", triton_model_repository=str(host.folder), vllm_weights_source=str(host.folder))
    assert "/var/lib/migrate 1.0 GiB" in found[1]["expected"]


def test_ports_free(host: SmallHost) -> None:
    host.command("ss", SS)
    host.command("docker", "")
    wanted = {"gateway_port": 18100, "switch_rehearsal_port": 18090, "switch_ports": {"80": 18080}}
    failed(host.check("ports_free", vllm_port=18000, **wanted), "vllm_port 18000 is held by other", "vllm_port")
    passed(host.check("ports_free", vllm_port=18001, **wanted))


def test_ports_that_this_migration_holds_count_as_free(host: SmallHost) -> None:
    host.command("ss", SS)
    host.command("docker", "0123456789ab\n", when="project=vllm")
    passed(host.check("ports_free", vllm_port=18000, gateway_port=18100, switch_rehearsal_port=18090))


@pytest.mark.parametrize(("late_s", "verdict"), [(-300, failed), (300, failed), (2, passed)])
def test_clock(host: SmallHost, late_s: int, verdict: Any) -> None:
    controller = (datetime.now(UTC) - timedelta(seconds=late_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    verdict(host.check("clock", clock_controller_utc=controller))


def test_docker_engine(host: SmallHost) -> None:
    failed(host.check("docker_engine"), "absent", "install Docker")
    host.command("docker", "19.03.1\n", when="version")
    failed(host.check("docker_engine"), "19.03.1")
    host.command("docker", "26.1.5\n", when="version --format")
    host.command("docker", "v2.26.1\n", when="compose")
    passed(host.check("docker_engine"))


def test_triton_serving(host: SmallHost) -> None:
    failed(host.check("triton_serving", triton_http_port=1, triton_probe_model="phi2"), "port 1")
    answers = {"/v2/health/ready": (200, ""), "/v2/models/phi2/generate": (500, '{"error":"stub died"}')}
    port = host.serve(answers)
    failed(host.check("triton_serving", triton_http_port=port, triton_probe_model="phi2"), "stub died")
    port = host.serve(answers | {"/v2/models/phi2/generate": GENERATED})
    passed(host.check("triton_serving", triton_http_port=port, triton_probe_model="phi2"))


def test_nginx_serves_triton(host: SmallHost) -> None:
    settings = {"nginx_config_file": "/etc/nginx/nginx.conf", "nginx_service": "nginx", "triton_http_port": 8000}
    failed(host.check("nginx_serves_triton", **settings))
    host.command("systemctl", "active\n")
    host.command("nginx", NGINX.replace("8000", "80000").replace("server", "# server 127.0.0.1:8000;\nserver"))
    failed(host.check("nginx_serves_triton", **settings), "no proxy")
    host.command("nginx", "", rc=1, error="nginx: [emerg] unexpected end of file")
    failed(host.check("nginx_serves_triton", **settings), "unexpected end")
    host.command("nginx", NGINX)
    passed(host.check("nginx_serves_triton", **settings))


def test_registry_image(host: SmallHost) -> None:
    settings = {"vllm_image_digest": DIGEST, "docker_socket": str(host.folder / "nothing")}
    failed(host.check("registry_image", **settings), "nothing", "docker pull")
    moved = {"Descriptor": {"digest": "sha256:" + "b" * 64}}
    told = {f"/distribution/{DIGEST}/json": (200, json.dumps(moved))}
    settings["docker_socket"] = host.serve_socket(told)
    failed(host.check("registry_image", **settings), "bbb")


def test_registry_image_in_registry_or_on_the_host(host: SmallHost) -> None:
    same = json.dumps({"Descriptor": {"digest": DIGEST.partition("@")[2]}})
    socket = host.serve_socket({f"/distribution/{DIGEST}/json": (200, same)})
    passed(host.check("registry_image", vllm_image_digest=DIGEST, docker_socket=socket))


def test_registry_image_of_a_build_is_what_it_is_built_on(host: SmallHost) -> None:
    base = f"nvidia/cuda:12.9.1-devel-ubuntu24.04@sha256:{'d' * 64}"
    settings = {"vllm_image_digest": "migrate-vllm:v0.26.0-cu129-1", "image_strategy": "source", "image_base": base}
    failed(host.check("registry_image", **settings, docker_socket=str(host.folder / "nothing")), base)
    same = json.dumps({"Descriptor": {"digest": "sha256:" + "d" * 64}})
    socket = host.serve_socket({f"/distribution/{base}/json": (200, same)})
    passed(host.check("registry_image", **settings, docker_socket=socket))


def test_image_present(host: SmallHost) -> None:
    settings = {"vllm_image_digest": DIGEST, "gateway_image": "migrate-gateway:1"}
    host.command("docker", rc=1, error="No such image")
    failed(host.check("image_present", **settings), DIGEST)
    host.command("docker", json.dumps([{"Id": "sha256:1", "Config": {"Labels": None}}]))
    failed(host.check("image_present", **settings), "another image")
    host.command("docker", json.dumps([{"Id": "sha256:1", "Config": {"Labels": {"migrate.base": DIGEST}}}]))
    passed(host.check("image_present", **settings))


def test_weights_verified(host: SmallHost) -> None:
    weights = host.folder / "phi2"
    failed(host.check("weights_verified", vllm_weights_path=str(weights)), "0 of 0")
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    (host.folder / "phi2.sha256").write_text(f"{digest}  model.safetensors\n")
    passed(host.check("weights_verified", vllm_weights_path=str(weights)))
    (weights / "model.safetensors").write_bytes(b"weightz")
    failed(host.check("weights_verified", vllm_weights_path=str(weights)), "model.safetensors")


def test_gateway_serves(host: SmallHost) -> None:
    settings = {"triton_probe_model": "phi2", "triton_models": {"phi2": {"style": "python"}, "s": {"style": "vllm"}}}
    whole = {"/v2/models/phi2/generate": GENERATED}
    broken = {"/v2/models/s/generate_stream": (200, 'data: {"error":"upstream"}\n\n')}
    port = host.serve(whole | broken)
    failed(host.check("gateway_serves", gateway_port=port, **settings), "upstream")
    port = host.serve(whole | {"/v2/models/s/generate_stream": STREAMED})
    passed(host.check("gateway_serves", gateway_port=port, **settings))


def test_triton_goldens(host: SmallHost) -> None:
    command = str(host.folder / "bin" / "hostctl")
    host.command("hostctl", json.dumps({"error": "no goldens", "advice": "run phase snapshot"}), rc=1)
    rc, verdict = host.check("triton_goldens", hostctl=command)
    assert (rc, verdict["verdict"], verdict["advice"]) == (2, "error", "run phase snapshot")
    differing = [{"name": "phi2 prompt 1", "was": "a", "is": "b"}]
    host.command("hostctl", json.dumps({"same": False, "total": 3, "different": differing}))
    failed(host.check("triton_goldens", hostctl=command), "phi2 prompt 1")
    host.command("hostctl", json.dumps({"same": True, "total": 0, "different": []}))
    failed(host.check("triton_goldens", hostctl=command))
    host.command("hostctl", json.dumps({"same": True, "total": 3, "different": []}))
    passed(host.check("triton_goldens", hostctl=command))


def test_triton_gone(host: SmallHost) -> None:
    compose, models, archive = host.folder / "compose.yml", host.folder / "models", host.folder / "models.tar"
    settings = {
        "triton_container": "t",
        "triton_compose_file": str(compose),
        "triton_compose_service": "triton",
        "triton_http_port": host.serve({}),
        "triton_model_repository": str(models),
        "snapshot_dir": str(host.folder),
    }
    (models / "phi2").mkdir(parents=True)
    (models / "phi2" / "config.pbtxt").touch()
    compose.write_text("services:\n  triton:\n    image: t\n  other:\n    image: o\n")
    host.command("docker", "[{}]")
    failed(host.check("triton_gone", **settings), "container t", "entry triton", "a listener", "models below")
    (models / "phi2" / "config.pbtxt").unlink()
    compose.write_text("# triton: once\nservices:\n  other:\n    depends_on:\n      triton:\n")
    host.command("docker", rc=1)
    settings["triton_http_port"] = 1
    rc, verdict = host.check("triton_gone", **settings)
    assert (rc, verdict["measured"]) == (1, "gone, but the archive is missing")
    archive.touch()
    passed(host.check("triton_gone", **settings))


def test_port_serves(host: SmallHost) -> None:
    failed(host.check("port_serves", switch_ports={"1": 18080}, triton_probe_model="phi2"), "port 1")
    port = host.serve({"/v2/models/phi2/generate": GENERATED})
    passed(host.check("port_serves", switch_ports={port: 18080, 65535: 1}, triton_probe_model="phi2"))


def _snapshot(host: SmallHost) -> tuple[Path, Path]:
    """A host with a Triton stack and a snapshot of it; returns (snapshot, model repository)."""
    root, models, compose = host.folder / "snapshot", host.folder / "models", host.folder / "compose.yml"
    (root / "compose").mkdir(parents=True)
    models.mkdir()
    (models / "model.py").write_text("model\n")
    compose.write_text("services: {}\n")
    (root / "compose" / "compose.yml").write_text("services: {}\n")
    digest = hashlib.sha256(b"model\n").hexdigest()
    (root / "models.sha256").write_text(f"{digest}  model.py\n")
    spec = {
        "Name": "/t",
        "Image": "sha256:1",
        "Config": {"Env": {}, "Labels": {}},
        "HostConfig": {},
        "Mounts": [],
        "Networks": [],
    }
    (root / "container.json").write_text(json.dumps(spec))
    for name in ("models.tar", "packages.txt", "goldens.json"):
        (root / name).write_text(name)
    files = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        path.chmod(0o600)
        files[path.relative_to(root).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    triton = {"container": "t", "compose_file": str(compose), "model_repository": str(models)}
    triton |= {"keep_tag": "migrate-keep/triton:1", "image_id": "sha256:1"}
    (root / "snapshot.json").write_text(json.dumps({"triton": triton, "files": files}))
    host.command("docker", json.dumps([{"Name": "/t", "Image": "sha256:1", "Config": {"Hostname": "0f"}}]))
    host.command("docker", "sha256:1\n", when="image inspect")
    return root, models


def test_snapshot_complete(host: SmallHost) -> None:
    failed(host.check("snapshot_complete", snapshot_dir=str(host.folder / "none")), "no snapshot")
    root, _ = _snapshot(host)
    passed(host.check("snapshot_complete", snapshot_dir=str(root)))
    (root / "packages.txt").chmod(0o644)
    failed(host.check("snapshot_complete", snapshot_dir=str(root)), "packages.txt can be read by others")
    (root / "models.tar").write_text("models.taz")
    failed(host.check("snapshot_complete", snapshot_dir=str(root)), "models.tar is missing or was altered")


def test_snapshot_complete_needs_the_image(host: SmallHost) -> None:
    root, _ = _snapshot(host)
    host.command("docker", rc=1, when="image inspect")
    failed(host.check("snapshot_complete", snapshot_dir=str(root)), "migrate-keep/triton:1")


def test_snapshot_diff_names_one_appended_character(host: SmallHost) -> None:
    root, models = _snapshot(host)
    passed(host.check("snapshot_diff", snapshot_dir=str(root)))
    (models / "model.py").write_text("model\n#")
    failed(host.check("snapshot_diff", snapshot_dir=str(root)), str(models / "model.py"))


def test_snapshot_diff_names_what_changed_in_the_container(host: SmallHost) -> None:
    root, _ = _snapshot(host)
    other = {"Name": "/t", "Image": "sha256:2", "Config": {"Env": ["A=1"]}, "HostConfig": {"Memory": 1}}
    host.command("docker", json.dumps([other]))
    failed(host.check("snapshot_diff", snapshot_dir=str(root)), "Image", "Config.Env.A", "HostConfig.Memory")
    host.command("docker", rc=1)
    failed(host.check("snapshot_diff", snapshot_dir=str(root)), "container t is missing")


def test_null_and_empty_are_one_in_a_snapshot_and_anything_else_differs() -> None:
    paths = module("snapshot_diff")._paths
    assert paths({"Dns": None, "Links": []}, {"Dns": [], "Links": None}) == []
    assert paths({"Dns": ["10.0.0.2"], "Init": None}, {"Dns": [], "Init": True}) == ["Dns", "Init"]
