"""What keeps a host out of the traps of docs/provisioning.md: each task is there, with what makes it work.

What the modules do with it is proved against real apt in test_provision_packages.py and test_provision_source.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.playbooks.conftest import PLAYBOOKS

ROLES = PLAYBOOKS / "roles"
PROVISIONING = (
    *("provision", "gpu_driver", "cuda_repository", "cuda_toolkit", "nccl"),
    *("docker_engine", "container_toolkit", "package_hold"),
)
PAGE = PLAYBOOKS.parent / "docs" / "provisioning.md"
CASES = PLAYBOOKS.parent / "tests" / "cases"


def tasks(role: str, file: str = "present", folder: str = "tasks") -> list[dict[str, Any]]:
    """Tasks of a file in their order, those in blocks too."""
    return list(_flat(yaml.safe_load((ROLES / role / folder / f"{file}.yml").read_text())))


def _flat(listed: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in listed:
        yield task
        for part in ("block", "rescue", "always"):
            yield from _flat(task.get(part, []))


def using(module: str, role: str, file: str = "present", folder: str = "tasks") -> list[Any]:
    """What a module is given, call by call."""
    return [task[module] for task in tasks(role, file, folder) if module in task]


def only(found: list[Any]) -> Any:
    """The one there is."""
    assert len(found) == 1, found
    return found[0]


def place(names: list[str], beginning: str) -> int:
    """Where the first name that begins so is."""
    found = [i for i, name in enumerate(names) if name.startswith(beginning)]
    assert found, beginning
    return found[0]


def options(role: str) -> dict[str, Any]:
    spec = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text())
    found = spec["argument_specs"]["main"]["options"]
    assert isinstance(found, dict)
    return found


def defaults(role: str) -> dict[str, Any]:
    found = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text())
    assert isinstance(found, dict)
    return found


def variables(role: str) -> dict[str, Any]:
    found = yaml.safe_load((ROLES / role / "vars" / "main.yml").read_text())
    assert isinstance(found, dict)
    return found


def test_1_the_nccl_that_is_asked_for_exists_and_both_packages_have_it() -> None:
    assert defaults("provision")["provision_nccl_version"] == defaults("nccl")["nccl_version"] == "2.26.5-1+cuda12.9"
    call = only(using("apt_packages", "nccl"))
    assert call["packages"] == ["libnccl2={{ nccl_version }}", "libnccl-dev={{ nccl_version }}"]


def test_3_the_branch_is_pinned_before_the_driver_and_no_name_floats() -> None:
    calls = using("apt_packages", "gpu_driver", "install")
    assert len(calls) == 3
    pin, install, _ = calls
    assert pin["packages"] == "{{ __gpu_driver_pinning }}"
    assert "__gpu_driver_packages" in install["packages"]
    names = variables("gpu_driver")
    assert "'nvidia-driver-pinning-' ~ gpu_driver_branch" in names["__gpu_driver_pinning"]
    assert names["__gpu_driver_sets"]["cuda_repo"] == [
        "nvidia-open{{ __gpu_driver_suffix }}={{ __gpu_driver_wanted }}*"
    ]
    assert "if gpu_driver_branch | int < 590 else ''" in names["__gpu_driver_suffix"]


def test_4_modules_are_open_and_looked_at_before_the_reboot() -> None:
    assert options("gpu_driver")["gpu_driver_flavour"]["choices"] == ["open"]
    proofs = [call["that"] for call in using("ansible.builtin.assert", "gpu_driver", "install")]
    assert any("__gpu_driver_now['installed']['flavour'] == gpu_driver_flavour" in that for that in proofs)


def test_5_the_driver_has_one_origin_and_the_repository_is_pinned_away_from_others() -> None:
    calls = [*using("apt_packages", "gpu_driver"), *using("apt_packages", "gpu_driver", "install")]
    guarded = [call for call in calls if "__gpu_driver_packages" in str(call.get("packages"))]
    assert len(guarded) == 2
    assert all(call["one_origin"] == "{{ gpu_driver_packages }}" for call in guarded)
    source = only(using("apt_source", "cuda_repository"))
    assert source["pin"] == "{{ '' if cuda_repository_gives_driver else __cuda_repository_pin }}"
    pin = variables("cuda_repository")["__cuda_repository_pin"]
    assert "Pin: release l=NVIDIA CUDA\nPin-Priority: -1" in pin
    assert defaults("cuda_repository")["cuda_repository_gives_driver"] is False


def test_5_the_container_toolkit_has_one_origin_and_one_version() -> None:
    source = only(using("apt_source", "container_toolkit"))
    call = only(using("apt_packages", "container_toolkit"))
    names = {package.partition("=")[0] for package in call["packages"]}
    assert len(names) == 4
    assert {package.partition("=")[2] for package in call["packages"]} == {"{{ container_toolkit_version }}"}
    assert names == set(source["pin"].splitlines()[0].removeprefix("Package: ").split())
    assert "Pin: release l=NVIDIA CUDA\nPin-Priority: -1" in source["pin"]
    assert source["obsolete"] == ["libnvidia-container.list", "nvidia-docker.list"]


def test_6_the_keyring_is_the_one_that_exists_and_its_sum_is_known() -> None:
    assert defaults("cuda_repository")["cuda_repository_keyring_url"].endswith("/cuda-keyring_1.1-1_all.deb")
    known = defaults("cuda_repository")["cuda_repository_keyring_sha256"]
    assert known == defaults("provision")["provision_cuda_keyring_sha256"]
    assert re.fullmatch(r"[0-9a-f]{64}", known)


def test_7_secure_boot_stops_modules_that_nobody_signed_before_anything_is_installed() -> None:
    names = [task["name"] for task in tasks("gpu_driver")]
    guard = only([task for task in tasks("gpu_driver") if "Secure Boot" in task["name"]])
    assert place(names, guard["name"]) < place(names, "Install the driver, or leave the one that is there")
    assert "__gpu_driver_now['source'] == 'ubuntu'" in guard["ansible.builtin.assert"]["that"]
    assert "key_enrolled" in guard["ansible.builtin.assert"]["that"]


def test_8_the_toolkit_never_brings_a_driver() -> None:
    call = only(using("apt_packages", "cuda_toolkit"))
    assert call["packages"] == ["cuda-toolkit-{{ cuda_toolkit_version }}"]
    assert call["never"] == "{{ cuda_toolkit_never }}"


def test_the_driver_has_one_list_of_names_which_every_role_is_given() -> None:
    given = {"driver": "gpu_driver_packages", "cuda_repository": "cuda_repository_driver_packages"}
    for part, name in {**given, "cuda_toolkit": "cuda_toolkit_never"}.items():
        task = only(tasks("provision", f"part_{part}"))
        assert task["vars"][name] == "{{ __provision_driver_packages }}"
        assert options(task["ansible.builtin.include_role"]["name"])[name]["required"] is True
    names = variables("provision")["__provision_driver_packages"]
    assert {"nvidia-open*", "libnvidia-gpucomp*", "nvidia-fabricmanager*", "cuda-drivers*"} <= set(names)
    pin = variables("cuda_repository")["__cuda_repository_pin"]
    assert pin.startswith("Package: {{ cuda_repository_driver_packages | join(' ') }}\n")


def test_15_a_stop_has_more_time_than_tritons_own_drain_of_30_s() -> None:
    assert defaults("retire")["retire_stop_timeout_s"] >= 30 + 15
    stop = only([call for call in using("community.docker.docker_container", "retire") if "stop_timeout" in call])
    assert stop["stop_timeout"] == "{{ retire_stop_timeout_s }}"


def test_16_daemon_json_is_merged_and_the_engine_never_restarted() -> None:
    for role in ("docker_engine", "container_toolkit"):
        assert using("daemon_json", role)
        texts = [path.read_text() for path in (ROLES / role).rglob("*.yml")]
        assert not any("dest: /etc/docker" in text or "path: /etc/docker" in text for text in texts)
    assert only(using("daemon_json", "docker_engine"))["set"] == {"live-restore": "{{ docker_engine_live_restore }}"}
    restarts = [
        (role, path.name, call["state"])
        for role in PROVISIONING
        for path in sorted((ROLES / role).rglob("*.yml"))
        if path.parent.name in ("tasks", "handlers")
        for call in using("ansible.builtin.systemd_service", role, path.stem, path.parent.name)
        if call["name"] == "docker" and call["state"] != "reloaded"
    ]
    assert restarts == []
    assert variables("provision")["__provision_parts"][0] == "docker_engine"


def test_16_provisioning_reloads_systemd_in_the_announced_gap_only() -> None:
    reloads = [
        (role, path.name, task["name"])
        for role in PROVISIONING
        for path in sorted((ROLES / role / "tasks").glob("*.yml"))
        for task in tasks(role, path.stem)
        if (task.get("ansible.builtin.systemd_service") or {}).get("daemon_reload")
    ]
    assert reloads == [("gpu_driver", "reboot.yml", "Enable it for the next boot")]


def test_16_a_reboot_lets_docker_stop_its_containers_itself() -> None:
    """With live-restore it would leave them to systemd, which kills them 90 s later."""
    names = [task["name"] for task in tasks("gpu_driver", "reboot")]
    assert place(names, "Let Docker stop its containers when the host goes down") < place(names, "Reboot")
    assert only(using("daemon_json", "gpu_driver", "stop_with_host"))["set"] == {"live-restore": False}
    assert only(using("daemon_json", "gpu_driver", "load"))["state"] == "restored"


def test_17_vllm_and_gateway_are_published_on_the_loopback_only() -> None:
    text = (ROLES / "deploy/templates/compose.yml.j2").read_text()
    published = re.findall(r"^\s+ports: (.*)$|^\s+- (\S+:\S+:\d+.*)$", text, re.MULTILINE)
    assert len(published) == 2
    assert all("127.0.0.1:" in "".join(line) for line in published)


def test_the_reboot_is_asked_for_by_what_is_loaded_and_needs_leave_and_free_cards() -> None:
    reboot = only([task for task in tasks("gpu_driver", "load") if "reboot.yml" in str(task) and "when" in task])
    assert reboot["when"].startswith("__gpu_driver_now['reboot_due']")
    assert [call["that"] for call in using("ansible.builtin.assert", "gpu_driver", "guard")] == [
        "gpu_driver_allow_reboot",
        "__gpu_driver_others | difference(gpu_driver_users_accepted) | length == 0",
    ]
    for file in ("present", "absent"):
        names = [task["name"] for task in tasks("gpu_driver", file)]
        guard = place(names, "Make sure that a reboot is allowed and that nobody else is on the cards")
        assert guard < place(names, "Install the driver" if file == "present" else "Go back")


def test_upgrades_are_kept_away_in_one_way_at_a_time() -> None:
    when = {task["name"]: task.get("when") for task in tasks("package_hold")}
    assert when["Keep unattended upgrades away by a list"] == "package_hold_method == 'blacklist'"
    assert when["Take the holds off that this role set"] == "package_hold_method == 'blacklist'"
    assert when["Keep everybody away by holds"] == "package_hold_method == 'hold'"
    assert tasks("package_hold", "hold")[0]["ansible.builtin.file"]["state"] == "absent"
    listed = defaults("package_hold")["package_hold_patterns"]
    for name in (
        "nvidia-open-580",
        "libnvidia-compute-580",
        "libnccl2",
        "linux-modules-nvidia-580-open-generic",
        "docker.io",
    ):
        assert any(re.match(pattern, name) for pattern in listed), name
    assert not any(re.match(pattern, "dockerize") for pattern in listed)


def test_the_undo_takes_away_what_was_added_and_nothing_that_was_there_before() -> None:
    names = [task["name"] for task in tasks("gpu_driver", "persistence")]
    assert place(names, "Remember for the undo") < place(names, "Start it at every boot")
    remember = only([task for task in tasks("gpu_driver", "persistence") if task["name"].startswith("Remember")])
    assert "not __gpu_driver_linked['stat']['exists']" in remember["when"]
    removed = only([task for task in tasks("gpu_driver", "absent") if "__gpu_driver_link" in str(task.get("loop"))])
    assert removed["when"] == "__gpu_driver_linked['stat']['exists']"
    nouveau = only(
        [task for task in tasks("gpu_driver", "absent") if "nouveau" in str(task.get("ansible.builtin.file"))]
    )
    assert nouveau["notify"] == "Build the initramfs anew"
    names = [task["name"] for task in tasks("gpu_driver", "absent")]
    assert place(names, "Build the initramfs before a reboot") < place(names, "Load what is installed")


def test_without_anything_to_manage_provision_only_looks() -> None:
    assert defaults("provision")["provision_manage"] == []
    managed = only([task for task in tasks("provision") if "managed.yml" in str(task)])
    assert managed["when"] == "__provision_managed | length > 0"


@pytest.mark.parametrize("role", PROVISIONING)
def test_no_role_uses_a_shell(role: str) -> None:
    for path in (ROLES / role).rglob("*.yml"):
        if path.parent.name not in ("tasks", "handlers"):
            continue
        for task in _flat(yaml.safe_load(path.read_text())):
            assert not {"ansible.builtin.shell", "ansible.builtin.raw"} & task.keys()
            command = task.get("ansible.builtin.command")
            assert command is None or set(command) <= {"argv", "removes", "creates"}, task["name"]


def test_the_page_names_a_test_that_exists_for_each_of_the_twenty_traps() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]{20,}) \| (.*) \| (.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 21))
    for number, _, kind, _, cell in rows:
        assert set(kind.split(", ")) <= {"prevented", "caught"}
        for file, case in re.findall(r'\((\w+): "([^"]+)"\)', cell):
            known = [yaml.safe_load(path.read_text()) for path in CASES.glob(f"*/{file}.yaml")]
            assert case in [one["name"] for cases in known for one in cases], f"trap {number}: {case}"
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", cell)
        assert named, f"trap {number} names no test"
        for path, test in named:
            file = PAGE.parents[1] / "tests" / path
            assert file.is_file(), f"trap {number}: {path}"
            assert re.search(rf"def {test}\w*\(", file.read_text()), f"trap {number}: {test} in {path}"


def test_every_part_has_a_task_file_and_an_undo() -> None:
    for part in variables("provision")["__provision_parts"]:
        task = only(tasks("provision", f"part_{part}"))
        role = task["ansible.builtin.include_role"]["name"]
        assert (ROLES / role / "tasks" / "absent.yml").is_file()
        assert task["vars"][f"{role}_state"] == "{{ provision_state }}"
        assert set(task["vars"]) <= set(options(role)), role
    assert Path(ROLES / "provision/tasks/take_back.yml").is_file()
