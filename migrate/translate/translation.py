"""Translates what Triton serves into vLLM settings, with a reason for each field of the source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from migrate.errors import Refused
from migrate.translate import backend, engine, ensemble, headers, huggingface, versions
from migrate.translate.fields import Context, add_fields, staying
from migrate.translate.parse import as_object, parse
from migrate.translate.placement import place
from migrate.translate.records import Draft, Entry, Outcome, Source, Translation

_STAYS_FILES = ("model.json", "multi_lora.json")


def translate(source: Source) -> Translation:
    """The vLLM settings of one model, or why it stays on Triton.

    Every field that is set in its configuration has exactly one entry. Raises Refused for what cannot be read (file,
    line and column), and for sources that contradict each other; nothing is guessed there.
    """
    versions.check_name(source.name)
    config = parse(source.name, source.config)
    draft = Draft(served_names=[source.name])
    version = versions.served_version(draft, config, source)
    name = backend.backend_of(config, source)
    kind = backend.kind_of(name, config)
    objects = huggingface.read_files(source.weights)
    arguments = _object(source, f"{version}/model.json")
    why = backend.why_no_language_model(name, config, source) or _why_not(kind, config, source, arguments, objects)
    if why:
        return _stay(source, config, name, why, draft)
    style = backend.style_of(name, config)
    _add_all(draft, source, config, (version, kind, style), (arguments, objects))
    return _moving(source, draft, name, style, versions.resolve(source, version, draft.weights))


def translate_all(sources: Sequence[Source]) -> tuple[Translation, ...]:
    """Every model of a repository, in order; ensembles see their parts. Raises Refused as `translate` does."""
    by_name = {source.name: source for source in sources}
    translations = [translate(dataclasses.replace(source, parts=by_name)) for source in sources]
    users = ensemble.users(sources)
    moving = {translation.model for translation in translations if translation.moves}
    return tuple(_with_users(translation, users[translation.model], moving) for translation in translations)


def sources(facts: Mapping[str, Any], moving: Sequence[str] = ()) -> list[Source]:
    """The sources in a host's facts: its model repository, or what Triton answers where that cannot be read.

    `moving` names the models that have the weights of facts["weights"].
    """
    repository = (facts.get("model_repository") or {}).get("models") or {}
    answered = (facts.get("triton") or {}).get("configs") or {}
    weights, cards = facts.get("weights") or {}, facts.get("gpus")
    return [
        Source(
            name=name,
            config=_config_of(repository.get(name) or {}, answered.get(name)),
            files=(repository.get(name) or {}).get("texts") or {},
            listing=(repository.get(name) or {}).get("listing") or {},
            versions=_versions_of(repository.get(name)),
            weights=(weights.get("texts") or {}) if name in moving else {},
            headers=weights.get("safetensors") if name in moving else None,
            gpus=None if cards is None else len(cards),
        )
        for name in sorted({*repository, *answered})
    ]


def _versions_of(model: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    return None if model is None or model.get("versions") is None else tuple(model["versions"])


def _config_of(model: Mapping[str, Any], answered: Mapping[str, Any] | None) -> str | Mapping[str, Any]:
    """What Triton answers, where it was asked: it holds what backends complete. Else the file's text."""
    return answered if answered else str((model.get("texts") or {}).get("config.pbtxt", ""))


def _why_not(
    kind: str, config: Any, source: Source, arguments: Mapping[str, Any], objects: Mapping[str, Mapping[str, Any]]
) -> str:
    if kind == "ensemble":
        return ensemble.why_it_stays(config, source)
    if engine.pools(arguments):
        return f"model.json asks for {engine.pools(arguments)!r}: it generates no text"
    architectures = objects.get(huggingface.CONFIG, {}).get("architectures")
    if backend.is_generative(architectures) is False:
        return f"it is no language model: config.json names {architectures[0]}"  # type: ignore[index]
    return ""


def _add_all(
    draft: Draft,
    source: Source,
    config: Any,
    what: tuple[str, str, str],
    read: tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]],
) -> None:
    (version, kind, style), (arguments, objects) = what, read
    if kind == "vllm":
        _add_engine(draft, source, version, arguments)
    placement = place(source.name, config, arguments, source.gpus)
    add_fields(draft, config, Context(_where(source), kind, style, placement))
    if kind == "ensemble":
        ensemble.add_parts(draft, config, source)
    headers.check(draft, objects.get(huggingface.CONFIG, {}), source.headers)
    huggingface.add_weights(draft, objects, kind)
    paths = (*source.listing, *source.files, *source.weights)
    huggingface.add_gguf(draft, sorted({path for path in paths if path.lower().endswith(".gguf")}))
    if not draft.weights:
        draft.note("the configuration does not say which weights it loads: vllm_weights_source decides")


def _add_engine(draft: Draft, source: Source, version: str, arguments: Mapping[str, Any]) -> None:
    file, adapters = f"{version}/model.json", f"{version}/multi_lora.json"
    if file not in source.files:
        raise Refused(
            f"{source.name}/{file} is missing: the vllm backend has its engine arguments there",
            advice="Triton cannot serve the model without it: restore it",
        )
    is_enabled = engine.is_lora_enabled(arguments)
    if is_enabled and adapters not in source.files:
        raise Refused(
            f"{source.name}/{file} says enable_lora, but {adapters} is missing",
            advice="vllm_backend cannot start so: add the file, or take enable_lora out",
        )
    engine.add_engine_arguments(draft, file, arguments)
    engine.add_adapters(draft, adapters, _object(source, adapters), is_enabled=is_enabled)


def _object(source: Source, path: str) -> dict[str, Any]:
    return as_object(f"{source.name}/{path}", source.files[path]) if path in source.files else {}


def _moving(source: Source, draft: Draft, name: str, style: str, weights: str) -> Translation:
    return Translation(
        model=source.name,
        moves=True,
        why_not="",
        backend=name,
        style=style,
        weights=weights,
        served_names=tuple(dict.fromkeys(draft.served_names)),
        flags=draft.flags,
        environment=draft.environment,
        lora_modules=draft.lora_modules,
        entries=tuple(draft.entries),
        notes=tuple(draft.notes),
        weights_bytes=(source.headers or {}).get("bytes"),
    )


def _stay(source: Source, config: Any, name: str, why: str, draft: Draft) -> Translation:
    entries = staying(config, _where(source), why)
    entries += [
        Entry(path, "(file)", Outcome.DROPPED, "", "", f"stays on Triton: {why}")
        for path in sorted(source.files)
        if path.endswith(_STAYS_FILES)
    ]
    return Translation(
        source.name, False, why, name, "", "", (source.name,), {}, {}, {}, tuple(entries), tuple(draft.notes)
    )


def _with_users(translation: Translation, users: Sequence[str], moving: set[str]) -> Translation:
    """Says of a part of an ensemble what becomes of the ensemble."""
    notes = list(translation.notes)
    for user in users:
        if translation.moves and user not in moving:
            notes.append(f"the ensemble {user} stays on Triton and goes on needing this model there")
        elif not translation.moves and user in moving:
            notes.append(f"a part of {user}, which moves as a whole")
    return dataclasses.replace(translation, notes=tuple(notes))


def _where(source: Source) -> str:
    return "config.pbtxt" if isinstance(source.config, str) else "/config"
