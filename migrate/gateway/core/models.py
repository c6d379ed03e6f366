"""The models that the gateway answers for: what Triton says about each, and which of them are loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from migrate.gateway.config import GatewayConfig, ModelConfig, StyleName
from migrate.gateway.core.described import TensorSpec, config_of, metadata_of, specs
from migrate.gateway.core.server_settings import ServerSettings
from migrate.gateway.core.statistics import Statistics
from migrate.gateway.errors import Code, ConfigError, TritonError, unknown_model, unknown_version
from migrate.gateway.observe import metrics

TRITON_VERSION = "2.51.0"
_EXTENSIONS = (
    "model_repository",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)
_VERSION = re.compile(r"\s*([+-]?[0-9]+)", re.ASCII)
_LONGEST_VERSION = 2**63
_MOST_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Model:
    """One loaded version; `metadata` and `config` are Triton's JSON (ModelMetadataResponse, ModelConfig)."""

    name: str
    settings: ModelConfig
    metadata: Mapping[str, Any]
    config: Mapping[str, Any]
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def version(self) -> str:
        """Its only version."""
        return self.settings.version

    @property
    def style(self) -> StyleName:
        """How its inputs are read."""
        return self.settings.style

    @property
    def is_decoupled(self) -> bool:
        """Whether it gives any number of responses to a request."""
        return bool((self.config.get("model_transaction_policy") or {}).get("decoupled", False))

    @property
    def answers_infer(self) -> bool:
        """Whether `infer` and ModelInfer are answered, which Triton refuses for a decoupled model."""
        return not self.is_decoupled or self.settings.answers_infer

    @property
    def max_batch_size(self) -> int:
        """0 for a model whose tensors have no batch dimension."""
        return int(self.config.get("max_batch_size", 0))


@dataclass(slots=True)
class _Entry:
    settings: ModelConfig
    model: Model | None = None
    reason: str = ""


class Registry:
    """Every model by name, and the settings that Triton's clients can read and change.

    `reread` gives the models of the configuration file as it is now, for `load`; `missing` says why vLLM does not serve
    one of its models, empty when it does.
    """

    def __init__(
        self,
        config: GatewayConfig,
        reread: Callable[[], Mapping[str, ModelConfig]] | None = None,
        missing: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        self.server_settings = ServerSettings()
        self._reread = reread or (lambda: config.models)
        self._missing = missing
        self._entries = {name: _Entry(settings) for name, settings in config.models.items()}
        for name, entry in self._entries.items():
            if entry.settings.is_loaded:
                entry.model = _described(name, entry.settings)

    def get(self, name: str, version: str = "") -> Model:
        """A model that is loaded. Raises TritonError: never loaded, not that version, or not loaded any more."""
        entry = self._entries.get(name)
        wanted = _number(version)
        if entry is None or (entry.model is None and not entry.reason):
            raise unknown_model(name)
        if wanted is not None and wanted != int(entry.settings.version):
            raise unknown_version(name, str(wanted))
        if entry.model is None:
            if wanted is not None:
                text = f"Request for unknown model: '{name}' version {wanted} is not at ready state"
                raise TritonError(Code.UNAVAILABLE, text)
            raise TritonError(Code.NOT_FOUND, f"Request for unknown model: '{name}' has no available versions")
        return entry.model

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether `get` would find it. Raises TritonError for a version that is no number."""
        _number(version)
        try:
            self.get(name, version)
        except TritonError:
            return False
        return True

    def server_metadata(self) -> dict[str, Any]:
        """`name`, `version` and the `extensions` that are served."""
        return {"name": "triton", "version": TRITON_VERSION, "extensions": list(_EXTENSIONS)}

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """`name` of each model and, where it was ever loaded, its `version`, `state` and `reason`."""
        return [_index_entry(name, entry) for name, entry in sorted(self._entries.items()) if entry.model or not ready]

    def model_statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """Triton's `model_stats`. Raises TritonError for a model that is not available."""
        loaded = {key: entry.model for key, entry in sorted(self._entries.items()) if entry.model}
        wanted = _number(version)
        if name and name not in loaded:
            raise TritonError(Code.INVALID_ARG, f"requested model '{name}' is not available")
        if name and wanted is not None and wanted != int(loaded[name].version):
            raise TritonError(Code.INVALID_ARG, f"requested model version is not available for model '{name}'")
        chosen = [loaded[name]] if name else list(loaded.values())
        return [{"name": model.name, "version": model.version} | model.statistics.as_json() for model in chosen]

    async def load(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Make a model of the configuration file, as it is now, available; `parameters` may hold another `config`.

        vLLM itself loads models only when it starts. Raises TritonError where it does not serve this one, or where the
        file does not name it.
        """
        settings = self._settings(name, parameters or {})
        reason = await self._missing(settings.upstream_model) if self._missing else ""
        entry = self._entries.setdefault(name, _Entry(settings))
        if reason:
            entry.reason = reason
            text = f"load failed for model '{name}': version {settings.version} is at UNAVAILABLE state: {reason};\n"
            raise TritonError(Code.INVALID_ARG, text)
        entry.settings, entry.reason, entry.model = settings, "unloaded", _described(name, settings)

    async def unload(self, name: str) -> None:
        """Take a model away, as Triton does also for a name that it does not know; what it is answering ends well."""
        entry = self._entries.get(name)
        if entry is not None and entry.model is not None:
            entry.model, entry.reason = None, "unloaded"
            metrics.forget(name, entry.settings.version)

    def _settings(self, name: str, parameters: Mapping[str, Any]) -> ModelConfig:
        try:
            found = self._reread().get(name)
        except ConfigError as error:
            raise TritonError(Code.INTERNAL, f"failed to load '{name}', {error}") from None
        override = parameters.get("config")
        if any(key.startswith("file:") for key in parameters):
            raise TritonError(Code.UNSUPPORTED, f"failed to load '{name}', the gateway takes no model files")
        if found is None:
            raise _not_polled(name)
        if override is None:
            return found
        try:
            changed = found.model_copy(
                update={"config": {**config_of(name, found), **json.loads(override)}, "metadata": None}
            )
            _described(name, changed)
        except (ValueError, TypeError, LookupError, AttributeError):
            raise _not_polled(name) from None
        return changed


def _described(name: str, settings: ModelConfig) -> Model:
    config = config_of(name, settings)
    inputs, outputs = ({spec.name: spec for spec in specs(config.get(kind, ()))} for kind in ("input", "output"))
    model = Model(name, settings, metadata_of(name, settings, config), config, inputs, outputs)
    metrics.declare(name, settings.version, is_decoupled=model.is_decoupled)
    return model


def _index_entry(name: str, entry: _Entry) -> dict[str, str]:
    if entry.model is not None:
        return {"name": name, "version": entry.settings.version, "state": "READY"}
    if not entry.reason:
        return {"name": name}
    return {"name": name, "version": entry.settings.version, "state": "UNAVAILABLE", "reason": entry.reason}


def _number(version: str) -> int | None:
    """None for any version. Read as C's strtol does; the complaints are those of Triton 2.51."""
    if not version:
        return None
    digits = _VERSION.match(version)
    number = int(digits[1]) if digits and len(digits[1]) <= _MOST_DIGITS else _LONGEST_VERSION
    detail = ", version should be an integral value > 0"
    if not -_LONGEST_VERSION <= number < _LONGEST_VERSION:
        text = f"failed to get model version from specified version string '{version}' (details: stol)"
        raise TritonError(Code.INVALID_ARG, text + detail)
    if number < 0:
        raise TritonError(Code.INVALID_ARG, f"invalid model version specified '{version}' {detail}")
    return number


def _not_polled(name: str) -> TritonError:
    return TritonError(Code.INTERNAL, f"failed to load '{name}', failed to poll from model repository")
