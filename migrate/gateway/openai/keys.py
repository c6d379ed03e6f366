"""The API keys of the /v1 side: lines of NAME:KEY in a file or in the environment."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping

from migrate.gateway.config import OpenAiConfig
from migrate.gateway.errors import ConfigError

_SHORTEST = 16


class Keys:
    """Knows keys by their SHA-256, and compares each one in a time that tells nothing about it."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._digests = [(name, _digest(key.encode("utf-8"))) for name, key in keys.items()]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, authorization: bytes) -> str | None:
        """The name of the key in an Authorization header, or None."""
        scheme, _, given = authorization.partition(b" ")
        digest = _digest(given.strip()) if scheme.lower() == b"bearer" else b""
        owner = None
        for name, known in self._digests:
            if hmac.compare_digest(digest, known):
                owner = name
        return owner


def load(config: OpenAiConfig, environment: Mapping[str, str] = os.environ) -> Keys:
    """The keys of the file and of the environment together.

    Raises ConfigError, which names the source and the line but no key.
    """
    keys: dict[str, str] = {}
    if config.keys_file is not None:
        try:
            text = config.keys_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"openai.keys_file: {error}") from None
        _read(text, str(config.keys_file), keys)
        if not keys:
            raise ConfigError(f"openai.keys_file: {config.keys_file} has no line NAME:KEY")
    _read(environment.get(config.keys_env, ""), config.keys_env, keys)
    for name in config.rates:
        if name not in keys:
            raise ConfigError(f"openai.rates.{name}: no key has this name")
    return Keys(keys)


def _read(text: str, source: str, keys: dict[str, str]) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, key = line.strip().partition(":")
        if not name or len(key) < _SHORTEST:
            raise ConfigError(f"{source}, line {number}: expected NAME:KEY with a key of at least {_SHORTEST} signs")
        if name in keys:
            raise ConfigError(f"{source}, line {number}: the name {name} is taken")
        keys[name] = key


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
