"""The settings of one host: role-prefixed variables of the operator's Ansible inventory, checked and completed.

`inventory/example` documents every one of them. The same flat names reach the playbooks as extra-vars.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from migrate.errors import SettingsError
from migrate.secrecy import is_secret
from migrate.sections import Expectation, Settings

__all__ = ["SECRETS", "Expectation", "Settings", "known_settings", "load"]

# Variables with one of our prefixes that are secrets of the operator's vault: roles read them, no setting holds them.
SECRETS = frozenset({"vllm_api_key", "weights_token"})
# Other roles that an operator may use claim `image_` and `nginx_` too: only a near miss is taken for ours there.
_SHARED_SECTIONS = {"image", "nginx"}
_NEAR = 0.82


def known_settings() -> dict[str, tuple[str, str]]:
    """Inventory name -> (section, field) of every setting."""
    return {
        f"{section}_{name}": (section, name)
        for section, info in Settings.model_fields.items()
        for name in _fields(info.annotation)
    }


def load(variables: Mapping[str, Any]) -> Settings:
    """Read the settings out of a host's inventory variables.

    Raises SettingsError that names the variable, the nearest known one, and what was expected.
    """
    known = known_settings()
    sections: dict[str, dict[str, Any]] = {section: {} for section in Settings.model_fields}
    for variable, value in variables.items():
        if variable in known:
            section, name = known[variable]
            sections[section][name] = value
        elif variable not in SECRETS and _is_ours(variable, known):
            raise SettingsError(f"{variable}: unknown setting{_nearest(variable, known)}", advice="")
    if any(sections["weights"].get(name) for name in ("repository", "offline_copy")):
        sections["vllm"].setdefault("weights_source", "")
    try:
        settings = Settings.model_validate(sections)
    except ValidationError as error:
        raise SettingsError(_first_problem(error)) from None
    _check_together(settings)
    return settings


def _fields(section: Any) -> list[str]:
    return list(section.model_fields)


def _is_ours(variable: str, known: Mapping[str, tuple[str, str]]) -> bool:
    section = variable.split("_", 1)[0]
    if section in _SHARED_SECTIONS:
        return bool(difflib.get_close_matches(variable, known, n=1, cutoff=_NEAR))
    return "_" in variable and section in Settings.model_fields


def _nearest(variable: str, known: Mapping[str, tuple[str, str]]) -> str:
    matches = difflib.get_close_matches(variable, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    variable = "_".join(path[:2]) + "".join(f".{part}" for part in path[2:])
    got = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
    return f"{variable}: {problem['msg'][0].lower()}{problem['msg'][1:]}{got}"


def _check_together(settings: Settings) -> None:
    _check_source(settings)
    _check_target(settings)
    if settings.triton.probe_model not in settings.triton.models:
        raise SettingsError(f"triton_probe_model: {settings.triton.probe_model!r} is not one of triton_models")
    ports = [settings.triton.http_port, settings.triton.grpc_port, settings.triton.metrics_port]
    ports += [settings.vllm.port, settings.gateway.port]
    ports += [settings.switch.rehearsal_port, *settings.switch.ports.values()]
    twice = {port for port in ports if ports.count(port) > 1}
    if twice:
        names = sorted(name for name, value in settings.flat().items() if _holds_port(value, min(twice)))
        raise SettingsError(f"{' and '.join(names)}: both use port {min(twice)}")
    if list(settings.switch.steps) != sorted(set(settings.switch.steps)) or settings.switch.steps[-1:] != [100]:
        raise SettingsError(f"switch_steps: must rise and end at 100 (got {settings.switch.steps})")
    longest = 2 * settings.switch.step_s + 60
    if settings.deadman.timeout_s < longest:
        raise SettingsError(
            f"deadman_timeout_s: {settings.deadman.timeout_s} is less than a step may last; with switch_step_s "
            f"{settings.switch.step_s} it must be at least {longest}"
        )
    for name in (*settings.vllm.environment, *settings.vllm.args):
        if is_secret(name) and (settings.vllm.environment | settings.vllm.args).get(name):
            raise SettingsError(
                f"vllm_environment and vllm_args: {name} looks like a secret, and plans are not secret",
                advice="keep it out of the inventory: 0600 files on the host",
            )
    image = settings.vllm.image
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", image):
        raise SettingsError(f"vllm_image: not an image reference (got {image!r})")


def _check_source(settings: Settings) -> None:
    """Raise SettingsError unless one setting, and one alone, says where the weights come from."""
    sources = {
        "vllm_weights_source": settings.vllm.weights_source,
        "weights_repository": settings.weights.repository,
        "weights_offline_copy": settings.weights.offline_copy,
    }
    named = [name for name, value in sources.items() if value]
    if len(named) > 1:
        raise SettingsError(
            f"{' and '.join(named)}: each says where the weights come from",
            advice=f"keep one; with weights_repository no {named[0]} is needed",
        )
    if not named:
        raise SettingsError("vllm_weights_source: missing; it, weights_repository or weights_offline_copy must be set")


def _check_target(settings: Settings) -> None:
    """Raise SettingsError where the folder of the staged weights, which is replaced, holds or is in another's."""
    ours = PurePosixPath(settings.vllm.weights_path)
    others = {
        "triton_model_repository": settings.triton.model_repository,
        "vllm_weights_source": settings.vllm.weights_source,
        "weights_offline_copy": settings.weights.offline_copy,
    }
    for name, path in others.items():
        theirs = PurePosixPath(path)
        if path and (ours == theirs or ours in theirs.parents or theirs in ours.parents):
            raise SettingsError(
                f"vllm_weights_path: {ours} is replaced and removed, and {name} is {theirs}",
                advice="give the staged weights a folder of their own, such as /var/lib/migrate/weights/model",
            )


def _holds_port(value: Any, port: int) -> bool:
    return value == port or (isinstance(value, dict) and port in value.values())
