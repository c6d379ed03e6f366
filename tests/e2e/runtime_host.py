"""A host for runtimes other than Docker: the lab's own with podman beside it, and without Triton, which they share
nothing with. What discovery would read of a Triton is taken from the fakes; everything else is real."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import yaml

from migrate import bundled, inventory, planner, runtimes, session, survey
from migrate import settings as settings_module
from migrate.context import Run, Stop
from migrate.gate import Outcome
from migrate.journal import Kind
from migrate.lab import build, cache, files, host, names, registry, secret
from migrate.plan import Plan
from migrate.playbook import PlaybookResult
from migrate.survey import Target
from tests.core.fakes import facts

from .conftest import Ended

IMAGE = f"{names.IMAGE_PREFIX}runtimes"
# Where this machine reaches package indexes through a proxy, its own certificates vouch for it.
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
DOCKERFILE = """
FROM {base}
LABEL {label}
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends podman >/dev/null
"""
# The only model that the fakes' Triton serves.
MODELS = {"triton_models": {"phi2": {"style": "python"}}, "vllm_cpu_limit": 2.0}
INSECURE = f'[[registry]]\nlocation = "{names.REGISTRY_ALIAS}:{names.REGISTRY_PORT}"\ninsecure = true\n'
# What the roles may leave. Podman keeps the image, as Docker does.
FOOTPRINT = """
ls -d /etc/containers/systemd/* /etc/systemd/system/migrate-* /run/systemd/generator/migrate-* /opt/migrate/* \\
  /var/lib/migrate/* /var/lib/migrate/weights/* /var/cache/migrate-* 2>/dev/null | grep -v '/weights$' || true
getent passwd migrate-vllm || true
podman ps --all --quiet 2>/dev/null || true
systemctl list-units --all --plain --no-legend 'migrate-vllm*' 'migrate-gateway*' 'migrate-offline*'
dpkg-query -W -f '${Package} ${db:Status-Status}\\n'
"""


@dataclass(frozen=True)
class RuntimeHost:
    """The host's container, and an operator's directory with an inventory of it."""

    container: str
    directory: Path

    def on_host(self, script: str) -> str:
        """Run a shell script as root there."""
        command = ["docker", "exec", self.container, "sh", "-ec", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def put(self, folder: str, file: Path) -> None:
        """Copy a file into a folder there."""
        self.on_host(f"mkdir -p {folder}")
        subprocess.run(["docker", "cp", "--quiet", str(file), f"{self.container}:{folder}/"], timeout=60, check=True)

    def footprint(self) -> list[str]:
        """Everything that the roles could leave."""
        return self.on_host(FOOTPRINT).splitlines()

    def argv(self, *arguments: str) -> list[str]:
        """A command line of `migrate`, for the operator's directory."""
        return [sys.executable, "-m", "migrate", *arguments]

    def migrate(self, *arguments: str) -> Ended:
        """Run `migrate` in the operator's directory."""
        argv = self.argv(*arguments)
        done = subprocess.run(argv, cwd=self.directory, capture_output=True, text=True, timeout=300, check=False)
        print(f"$ migrate {' '.join(arguments)} -> {done.returncode}\n{done.stdout}{done.stderr}")
        return Ended(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def planned(self, **changed: Any) -> Iterator[Planned]:
        """A plan with some of the lab's settings changed."""
        path = self.directory / "inventory" / "host_vars" / f"{names.HOST}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(MODELS | changed))
        found = inventory.find(self.directory / "inventory")
        with survey.target(names.HOST, found, self.directory / "runs", _quiet) as target:
            read = survey.read(target)
            known = facts() | {name: read[name] for name in ("weights", "podman", "vllm_image", "machine")}
            plan = planner.make(names.HOST, target.settings, known, session.playbooks_digest(), session.now())
            session.keep_facts(target, session.run_id(plan), known)
            yield Planned(target, plan, session.run_id(plan))


@dataclass(frozen=True)
class Planned:
    """A plan for the host, and the name of its run."""

    target: Target
    plan: Plan
    name: str

    @contextmanager
    def opened(self) -> Iterator[Deployment]:
        """The run, with the host's lock held."""
        with session.open_run(self.target, self.plan, self.name, "tests", Stop()) as run:
            yield Deployment(self.target, run)


@dataclass(frozen=True)
class Deployment:
    """A run on the host, and its playbooks."""

    target: Target
    run: Run

    def play(self, name: str, *checks: str, check: bool = False, **extra: Any) -> PlaybookResult:
        """Run a playbook with some checks at its end, or in check mode."""
        given = self.run.fenced(check_names=list(checks), stage_poll_s=1, **extra)
        return self.target.playbooks(self.run.directory / "ansible").run(name, given, _quiet, check=check)

    def must(self, name: str, *checks: str, check: bool = False, **extra: Any) -> PlaybookResult:
        """The same, to its end, with every check passed."""
        done = self.play(name, *checks, check=check, **extra)
        assert done.ok, done.failures
        problems = [found.problem() for found in done.verdicts if found.verdict is not Outcome.PASS]
        assert not problems, problems
        assert sorted(found.check for found in done.verdicts) == sorted(checks)
        return done

    def with_args(self, **args: Any) -> dict[str, Any]:
        """Variables of the same run with other arguments for vLLM."""
        flat = self.run.settings.flat()
        changed = settings_module.load(flat | {"vllm_args": flat["vllm_args"] | args})
        return {"vllm_args": changed.vllm.args, "runtime_config": runtimes.of(changed).as_json()}

    def passed(self, phase: str) -> None:
        """Say in the journal that a phase has passed."""
        self.run.journal.append(Kind.INTENT, phase)
        self.run.journal.append(Kind.OUTCOME, phase, verdict="pass", verdicts=[])


@contextmanager
def started(engine: docker.DockerClient, name: str, port: int, directory: Path) -> Iterator[RuntimeHost]:
    """A host of this name, booted, with sshd on this port of the loopback and the lab's models; gone afterwards."""
    inventory_of_lab = bundled.root() / "inventory" / "lab"
    secrets = secret.Secrets(inventory_of_lab)
    recipe = build.read(bundled.root() / "lab", cache.location(dict(os.environ)))
    there = RuntimeHost(f"migrate-lab-{name}", directory)
    _remove(engine, there.container)
    spec = _spec(_image(engine, recipe.host.image), port)
    container = engine.containers.get(engine.api.create_container_from_config(spec, there.container)["Id"])
    try:
        laid = files.host_files(recipe.lab, recipe.model, secrets, "")
        container.put_archive("/", files.pack([*laid, *_own_files(secrets)]))
        container.start()
        _inventory(directory, inventory_of_lab, port)
        _wait(there, "systemctl is-active docker ssh")
        yield there
    finally:
        _remove(engine, there.container)


def _image(engine: docker.DockerClient, base: str) -> str:
    """The lab's host with podman from its own distribution."""
    text = DOCKERFILE.format(base=base, label=f"{names.LABEL}={names.LABEL_VALUE}")
    engine.images.build(fileobj=io.BytesIO(text.encode()), tag=IMAGE, rm=True)
    return IMAGE


def _own_files(secrets: secret.Secrets) -> list[files.HostFile]:
    """What this host has beside the lab's: its operator is root, which spares each task a sudo."""
    public = secrets.identity.with_suffix(".pub").read_bytes()
    return [
        files.HostFile("/etc/containers/registries.conf.d/lab.conf", INSECURE.encode()),
        files.HostFile("/etc/ssh/sshd_config.d/00-root.conf", b"PermitRootLogin prohibit-password\n"),
        files.HostFile("/root/.ssh/authorized_keys", public, 0o600),
    ]


def _spec(image: str, port: int) -> dict[str, Any]:
    """The body of the engine's `create`, as the lab's own host has it but for volumes and ports."""
    spec = host.container_spec(image, "")
    binds = ["/sys/fs/cgroup:/sys/fs/cgroup:rw", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    bindings = {"22/tcp": [{"HostIp": names.ADDRESS, "HostPort": str(port)}]}
    # Neither engine can lay its overlay over another one.
    volumes = {"/var/lib/containers": {}, "/var/lib/docker": {}}
    changed = {"Binds": binds, "PortBindings": bindings, "RestartPolicy": {"Name": "no"}, "ShmSize": 1 << 30}
    return spec | {"HostConfig": spec["HostConfig"] | changed, "Volumes": volumes, "ExposedPorts": {"22/tcp": {}}}


def _inventory(directory: Path, source: Path, port: int) -> None:
    """The lab's inventory, with this host's port and operator."""
    copy = directory / "inventory"
    shutil.copytree(source, copy)
    (copy / "group_vars" / "all" / "vault.yml").unlink()
    for name in ("hosts.yml", ".secrets/known_hosts"):
        text = (copy / name).read_text()
        own = text.replace(str(names.SSH.outside), str(port))
        (copy / name).write_text(own.replace(f"ansible_user: {names.OPERATOR}", "ansible_user: root"))


def _wait(there: RuntimeHost, line: str) -> None:
    deadline = time.monotonic() + host.BOOT_S
    while True:
        try:
            there.on_host(line)
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _remove(engine: docker.DockerClient, name: str) -> None:
    found = registry.find(engine, name)
    if found is not None:
        found.remove(force=True, v=True)


def _quiet(text: str) -> None:
    """Says nothing."""
