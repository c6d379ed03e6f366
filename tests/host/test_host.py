"""`Host` with stand-ins for ssh and sudo that run the command here; the real ones are met in the lab."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from migrate import host as module
from migrate.errors import HostUnreachable, LockHeld, MigrateError, NotProven, Refused, SettingsError
from migrate.host import Host, Secret

from .machine import HOSTCTL, Machine

VARIABLES = {
    "ansible_host": "192.0.2.1",
    "ansible_port": 2201,
    "ansible_user": "ops",
    "ansible_ssh_private_key_file": "/keys/id",
    "ansible_ssh_common_args": "-o ProxyJump=bastion -o 'UserKnownHostsFile=/a b'",
}
SSH = 'for last in "$@"; do :; done; [ "$last" = 192.0.2.1 ] && exit 0; exec sh -c "$last"'
SUDO = """case "$1" in
-n) shift 2 ;;
-k) IFS= read -r given; [ "$given" = "s3cret" ] || { echo "Sorry, try again." >&2; exit 1; }; shift 5 ;;
esac
exec "$@"
"""


@pytest.fixture
def reached(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    program = machine.fake("hostctl.sh", f'exec {sys.executable} -IB {HOSTCTL} "$@"').with_name("bin") / "hostctl.sh"
    monkeypatch.setattr(module, "_REMOTE", module._REMOTE.replace(module.HOSTCTL, str(program)))
    monkeypatch.setenv("PATH", machine.environment["PATH"])
    monkeypatch.setenv("MIGRATE_ROOT", str(machine.root))
    machine.fake("ssh", SSH)
    machine.fake("sudo", SUDO)
    return machine


def arguments(machine: Machine) -> str:
    return (machine.root / "ssh.calls").read_text()


def test_calls_over_ssh_with_the_hosts_own_variables(reached: Machine) -> None:
    with Host("gpu01", VARIABLES) as host:
        assert host.installed()
        assert host.call("lock", "status")["held"] is False
    line = arguments(reached).splitlines()[0]
    for part in ("-p 2201", "-l ops", "-i /keys/id", "ProxyJump=bastion", "UserKnownHostsFile=/a b", "BatchMode=yes"):
        assert part in line
    assert "StrictHostKeyChecking" not in line


def test_the_sockets_directory_is_private_and_goes(reached: Machine) -> None:
    host = Host("gpu01", VARIABLES)
    directory = Path(host._sockets.name)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(str(directory / "c")) < 60
    host.close()
    host.close()
    assert not directory.exists()
    assert "-O exit 192.0.2.1" in arguments(reached)


def test_the_sudo_password_goes_to_sudo_alone(reached: Machine) -> None:
    password = Secret("s3cret")
    with Host("gpu01", VARIABLES, password) as host:
        token = host.call("lock", "acquire", "--owner", "a", "--reason", "it's; $(x)", "--lease-s", "9")["token"]
        with pytest.raises(Refused, match="no JSON"):
            host.call("journal", "append", "--run", "r", "--token", str(token), stdin="first line\nsecond\n")
    assert "s3cret" not in arguments(reached)
    assert "s3cret" not in f"{password} {password!r} {password:}"
    assert reached.ok("lock", "status")["lock"]["reason"] == "it's; $(x)"


def test_where_sudo_wants_no_password_it_never_reaches_hostctl(reached: Machine) -> None:
    reached.fake("sudo", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
    reached.configure("http://127.0.0.1:1", "http://g")
    with Host("gpu01", VARIABLES, Secret("s3cret")) as host:
        token = host.call("lock", "acquire", "--owner", "a", "--reason", "r", "--lease-s", "9")["token"]
        goldens = host.call("goldens", "record", "--token", str(token), stdin="[]")
    assert goldens["recorded"] == 0


def test_a_wrong_sudo_password_is_named(reached: Machine) -> None:
    with Host("gpu01", VARIABLES, Secret("wrong")) as host, pytest.raises(MigrateError, match="sudo refused: Sorry"):
        host.call("version")


@pytest.mark.parametrize(("code", "error"), [(3, Refused), (4, LockHeld), (7, NotProven), (1, MigrateError)])
def test_exit_codes_become_errors(reached: Machine, code: int, error: type[MigrateError]) -> None:
    reached.fake("hostctl.sh", f"""echo '{{"error": "why", "advice": "do"}}'; exit {code}""")
    with Host("gpu01", VARIABLES) as host, pytest.raises(error) as caught:
        host.call("version")
    assert (str(caught.value), caught.value.advice, type(caught.value)) == ("gpu01: why", "do", error)


def test_no_json_is_an_error(reached: Machine) -> None:
    reached.fake("hostctl.sh", "echo Segmentation fault")
    with Host("gpu01", VARIABLES) as host, pytest.raises(MigrateError, match="no JSON object: Segmentation fault"):
        host.call("version")


def test_without_hostctl(reached: Machine) -> None:
    (reached.bin / "hostctl.sh").unlink()
    with Host("gpu01", VARIABLES) as host:
        assert host.installed() is False
        with pytest.raises(MigrateError, match="not installed"):
            host.call("status")


def test_ssh_that_fails_is_an_unreachable_host(reached: Machine) -> None:
    reached.fake("ssh", "echo 'Permission denied (publickey).' >&2; exit 255")
    with Host("gpu01", VARIABLES) as host, pytest.raises(HostUnreachable, match=r"gpu01: Permission denied"):
        host.installed()


def test_a_host_that_hangs_is_unreachable(reached: Machine) -> None:
    with Host("gpu01", VARIABLES) as host:
        reached.fake("ssh", "exec sleep 20")
        with pytest.raises(HostUnreachable, match="no answer"):
            host.call("version", timeout_s=0.2)
        reached.fake("ssh", "exit 0")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"ansible_connection": "winrm"}, "ansible_connection"),
        ({"ansible_password": "x"}, "use a key|password for ssh"),
        ({"ansible_become_method": "su"}, "only sudo"),
        ({"ansible_host": "-oProxyCommand=x"}, "is no address"),
    ],
)
def test_ways_in_that_are_not_spoken(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Host("gpu01", VARIABLES | wrong)


def test_root_needs_no_sudo(reached: Machine) -> None:
    with Host("gpu01", VARIABLES | {"ansible_user": "root"}) as host:
        host.call("version")
    assert not (reached.root / "sudo.calls").exists()
