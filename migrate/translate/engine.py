"""model.json and multi_lora.json of Triton's vllm backend: engine arguments become flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from migrate import knowledge
from migrate.errors import Refused
from migrate.secrecy import is_secret
from migrate.translate.records import Draft, Entry, Outcome, Sure
from migrate.translate.values import HIDDEN, NotReadable, as_switch, check_argument, check_text, read

_POOLING = {"embed", "embedding", "classify", "score", "reward", "pooling"}


def add_engine_arguments(draft: Draft, where: str, arguments: Mapping[str, Any]) -> None:
    """Adds one entry for each engine argument. Raises Refused for a value that no flag can take."""
    for name, value in arguments.items():
        draft.entries.append(_entry(draft, f"{where}:{name}", name, value))


def add_adapters(draft: Draft, where: str, adapters: Mapping[str, Any], *, is_enabled: bool) -> None:
    """Adds the LoRA adapters of multi_lora.json (name -> directory), where model.json enables them. Raises Refused for
    a directory that is no text."""
    for name, path in adapters.items():
        source = f"{where}:{name}"
        if not is_enabled:
            reason = "model.json does not say enable_lora, so vllm_backend never reads this file"
            draft.entries.append(Entry(source, path, Outcome.DROPPED, "", "", reason))
            continue
        check_argument(source, name)
        draft.lora_modules[name] = check_text(source, path)
        reason = "clients of vLLM name the adapter as the model; Triton's ask by lora_name in sampling_parameters"
        draft.entries.append(Entry(source, path, Outcome.MAPPED, "--lora-modules", name, reason, Sure.DERIVED))


def is_lora_enabled(arguments: Mapping[str, Any]) -> bool:
    """As vllm_backend reads it (`_setup_lora` of its src/model.py): true, or a text that says so."""
    return str(arguments.get("enable_lora", "")).lower() == "true"


def pools(arguments: Mapping[str, Any]) -> str:
    """The task of an engine that generates no text; empty where it generates."""
    asked = str(arguments.get("task") or arguments.get("runner") or "")
    return asked if asked in _POOLING else ""


@cache
def table() -> Mapping[str, Any]:
    """`engine_args.yaml`."""
    loaded: Mapping[str, Any] = yaml.load(
        files(__package__).joinpath("engine_args.yaml").read_text("utf-8"), yaml.CSafeLoader
    )
    return loaded


def _entry(draft: Draft, source: str, name: str, value: Any) -> Entry:
    known = table()
    if is_secret(name):
        reason = "a secret belongs in the operator's vault, not among arguments"
        return Entry(source, HIDDEN, Outcome.LOSSY, "", "", reason, Sure.REVIEW)
    if value is None:
        return Entry(source, value, Outcome.DROPPED, "", "", "null: vLLM's default")
    if name in _SPECIAL:
        return _SPECIAL[name](draft, source, value)
    if name in known["gone"]:
        return _gone(draft, source, name, value)
    if name in known["renamed"]:
        return _renamed(draft, source, value, known["renamed"][name])
    if name in known["switches"]:
        return _flag(draft, source, name, _switch(source, value))
    if name in known["values"]:
        return _flag(draft, source, name, value)
    return _by_release(draft, source, name, value)


def _by_release(draft: Draft, source: str, name: str, value: Any) -> Entry:
    """What the releases' table knows of a name that is not in `engine_args.yaml`."""
    releases = knowledge.load()
    row = None if "-" in name else releases.flags.get(name.replace("_", "-"))
    if row is None:
        reason = "no engine argument of vLLM that is known has this name: look at the release that Triton runs"
        return Entry(source, value, Outcome.LOSSY, "", "", reason, Sure.REVIEW)
    if name in table()["server"]:
        reason = "an option of vLLM's server, not of its engine: vllm_backend does not take it; vllm_args does"
        return Entry(source, value, Outcome.LOSSY, "", "", reason, Sure.REVIEW)
    if row.until is not None:
        reason = f"gone in vLLM {row.until}: {row.replacement or 'leave it out'}"
        return Entry(source, value, Outcome.DROPPED, "", "", reason)
    return _flag(draft, source, name, _switch(source, value) if releases.is_switch(row.name) else value)


def _flag(draft: Draft, source: str, name: str, value: Any) -> Entry:
    flag = name.replace("_", "-")
    value = _number(source, value, _NUMBERS[name]) if name in _NUMBERS else value
    draft.flags[flag] = check_argument(source, value)
    return Entry(source, value, Outcome.MAPPED, f"--{flag}", value, "the same setting of vLLM", Sure.EXACT)


_NUMBERS = {"max_num_seqs": "int", "max_num_batched_tokens": "int", "gpu_memory_utilization": "float"}


def _number(source: str, value: Any, kind: str) -> Any:
    try:
        if isinstance(value, bool):
            raise NotReadable(f"{value!r} is no number")
        number = read(value, kind)
    except NotReadable as error:
        raise Refused(f"{source}: {error}", advice="correct model.json") from error
    if not 0 < number < (1.0001 if kind == "float" else 1 << 31):
        raise Refused(f"{source}: {value!r} is out of range", advice="correct model.json")
    return number


def _gone(draft: Draft, source: str, name: str, value: Any) -> Entry:
    reason = table()["gone"][name]
    if name == "disable_log_requests" and not _switch(source, value):
        draft.flags["enable-log-requests"] = True
        reason = "requests are logged only when asked for, since 0.17"
        return Entry(source, value, Outcome.MAPPED, "--enable-log-requests", True, reason, Sure.DERIVED)
    return Entry(source, value, Outcome.DROPPED, "", "", reason)


def _renamed(draft: Draft, source: str, value: Any, rule: Mapping[str, Any]) -> Entry:
    flag, key = rule["flag"], rule.get("key")
    check_argument(source, value)
    if key is None:
        draft.flags[flag] = value
    else:
        draft.flags[flag] = {**draft.flags.get(flag, {}), key: value}
    reason = f"gone as a flag of its own by {rule['gone']}; it is now part of --{flag}"
    return Entry(source, value, Outcome.MAPPED, f"--{flag}", draft.flags[flag], reason, Sure.REVIEW)


def _model(draft: Draft, source: str, value: Any) -> Entry:
    draft.weights = check_text(source, value)
    reason = "the weights; they are served from the directory that `stage` fills"
    return Entry(source, value, Outcome.MAPPED, "weights", draft.weights, reason, Sure.EXACT)


def _names(draft: Draft, source: str, value: Any) -> Entry:
    names = value if isinstance(value, list) else [value]
    draft.served_names += [check_text(source, served) for served in names]
    reason = "more names for the model, beside its name in Triton"
    return Entry(source, value, Outcome.MAPPED, "--served-model-name", names, reason, Sure.EXACT)


def _task(draft: Draft, source: str, value: Any) -> Entry:
    return Entry(source, value, Outcome.DROPPED, "", "", "gone in 0.13.0: vLLM finds out that the model generates")


_SPECIAL: dict[str, Callable[[Draft, str, Any], Entry]] = {"model": _model, "served_model_name": _names, "task": _task}


def _switch(source: str, value: Any) -> bool:
    try:
        return as_switch(value)
    except NotReadable as error:
        raise Refused(f"{source}: {error}", advice="correct model.json") from error
