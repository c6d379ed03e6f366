"""One start of Ansible for settings and facts, on this machine itself; wrong hosts and settings are named first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate import session, survey
from migrate.errors import HostUnreachable, Refused, SettingsError, UsageError
from migrate.inventory import Inventory
from tests.core.fakes import VARIABLES

HERE = {
    "ansible_connection": "local",
    "ansible_become": False,
    "ansible_python_interpreter": sys.executable,
    "triton_http_port": 1,
    "triton_grpc_port": 2,
}
UNREACHABLE = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_common_args": "-F /dev/null"}


def inventory(place: Path, **variables: Any) -> Inventory:
    hosts = {"gpu_hosts": {"hosts": {"h": VARIABLES | variables, "other": {}}}}
    (place / "hosts.yml").write_text(yaml.safe_dump(hosts), encoding="utf-8")
    return Inventory(place)


def surveyed(place: Path, name: str = "h", **variables: Any) -> tuple[survey.Target, dict[str, Any]]:
    with survey.surveyed(name, inventory(place, **variables), place, print, meanwhile=lambda: None) as found:
        return found


def test_settings_and_facts_come_together(tmp_path: Path) -> None:
    asked = []
    ours = HERE | {"vllm_weights_source": "{{ inventory_dir }}", "vllm_environment": {"A": "{{ inventory_hostname }}"}}
    given = inventory(
        tmp_path, **ours, switch_ports={80: 18080}, unrelated="{{ undefined }}", ansible_password="hunter2"
    )
    with survey.surveyed("h", given, tmp_path, print, meanwhile=lambda: asked.append("meanwhile")) as (target, facts):
        assert target.settings.vllm.weights_source == str(tmp_path)
        assert target.settings.vllm.environment == {"A": "h"}
        assert target.settings.switch.ports == {80: 18080}
        assert facts["weights"]["path"] == str(tmp_path)
        assert facts["kernel"]
        assert "hunter2" not in str((target.settings, facts))
    assert asked


@pytest.mark.parametrize("name", ["g", "gpu_hosts", "localhost"])
def test_what_is_no_host_of_the_inventory_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not in the inventory"):
        surveyed(tmp_path, name, **HERE)


@pytest.mark.parametrize("way", [HERE, UNREACHABLE], ids=["reachable", "out of reach"])
def test_a_wrong_setting_is_named_with_its_line(tmp_path: Path, way: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"hosts\.yml:\d+: vllm_imag: unknown setting; did you mean vllm_image"):
        surveyed(tmp_path, **way, vllm_imag="x")


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="field required"):
        surveyed(tmp_path, "other", **HERE)


def test_a_host_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(HostUnreachable):
        surveyed(tmp_path, **UNREACHABLE)


def test_facts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="Read the host"):
        surveyed(tmp_path, **HERE | {"ansible_python_interpreter": "/none/python"})


def test_a_connection_is_made_when_it_is_asked_for() -> None:
    asked = []

    def variables() -> dict[str, Any]:
        asked.append("variables")
        return {"ansible_host": "127.0.0.1", "ansible_become_password": "hunter2"}

    connection = survey.Connection("h", variables)
    connection.close()
    assert asked == []
    host = connection.open()
    assert connection.open() is host
    assert "hunter2" not in repr(vars(host))
    connection.close()
    assert asked == ["variables"]


@pytest.mark.parametrize(
    ("hostctl", "wanted"),
    [
        (None, None),
        ({"installed": False, "status": None}, None),
        ({"installed": True, "status": {"journal": []}}, None),
        (
            {
                "installed": True,
                "status": {"journal": [{"run": "r", "last": {"kind": "finish", "data": {"result": "x"}}}]},
            },
            ("r", "x"),
        ),
    ],
)
def test_what_the_facts_tell_of_the_run_before(hostctl: Any, wanted: Any) -> None:
    assert session.before(None, {"hostctl": hostctl}) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "status",
    [
        {"error": "no answer"},
        {"journal": {"error": "broken"}},
        {"journal": [{"run": "r", "last": {"kind": "note", "data": {}}}]},
        {"journal": [{"run": "r", "last": None}]},
    ],
)
def test_a_run_that_is_not_over_is_read_from_the_host(status: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "latest", lambda target: session.Migration("from the host", ()))
    found = session.before(None, {"hostctl": {"installed": True, "status": status}})  # type: ignore[arg-type]
    assert found == ("from the host", "")
