"""Takes secrets out of what is shown of a host: each becomes a keyed hash, so that a change of it is still seen.

A secret is known by the name that it stands under, and by its own form under any other name.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ansible.module_utils.migrate_host import env_hashes
from ansible.module_utils.migrate_pbtxt import rewritten

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_NAMES = re.compile(
    r"passw(?:or)?d|passphrase|passcode|secret|credential|authorization|bearer"
    r"|(?:api|access|private|signing|encryption|ssh|account|license|deploy)keys?"
)
_EXACT = frozenset({"auth", "oauth", "pwd"})
# A tokenizer's special tokens, and settings that are about tokens; every other `…_token` is taken for a secret.
_PLAIN_TOKENS = frozenset(
    "bos eos pad unk sep cls mask image img audio video vision speech boi eoi start end stop begin special extra added"
    " additional max min num per tool think prefix suffix middle fim eot eom eod newline patch placeholder".split()
)
_SECRET_TOKENS = frozenset("hf hub auth access api refresh session service registry".split())
_STRING = re.compile(r'"(?:\\.|[^"\\])*"|' + r"'(?:\\.|[^'\\])*'", re.DOTALL)
# `--name value`, `--name=value`, `"--name", "value"`; `name: value`, `"name": "value"`, `name=value`.
_NAMED = re.compile(
    r"(?<![\w.-])(?:--?([A-Za-z][\w.-]*)(?:\s*=\s*|\\*[\"']\s*,\s*|\s+(?![\s-]))"
    r"|([A-Za-z_][\w.-]*)\\*[\"']?\s*[:=]\s*)"
)
_OPENED = re.compile(r"\\*[\"']")
_WORD_IN_QUOTES = re.compile(r"\\*[\"']([\w.-]+)")
_BARE = re.compile(r"[^\s\"']*")
_BRACKETS = re.compile(r"[\[\]{}]|" + _STRING.pattern, re.DOTALL)
_KEYS = ("key", "name")
_VALUES = ("value", "string_value", "default")
_KEPT = ("", "true", "false", "null", "None")
_HEADER = re.compile(r"(authorization[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|token)\s+)?)([^\n\"']+)", re.IGNORECASE)
# Tokens of Hugging Face, OpenAI-like services, NVIDIA's NGC, GitHub, GitLab, Slack, AWS; JSON Web Tokens; PEM keys.
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|nvapi-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}"
    r"|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.[\w-]+\.[\w-]*)"
    r"|(?<=\bBearer )[\w.~+/=-]{16,}|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*KEY-----|\Z)",
    re.DOTALL,
)
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@\"']*):([^@/\s\"']+)(?=@)")
_HASH = "keyed-hash:"
_HASHED = re.compile(rf"{_HASH}[0-9a-f]{{64}}")


def without_secrets(name: str, text: str, key: str) -> str:
    """The text of the file `name` (JSON or protobuf text format) with its secrets hashed with `key`.

    JSON without a secret stays as it is written, other JSON is written anew; what does not parse is searched.
    """
    shown = _Shown(key)
    if name.endswith(".pbtxt"):
        return rewritten(text, is_secret=is_secret, hashed=shown.hashed, searched=shown.text)
    parsed, whole = _parsed(text)
    return shown.text(text) if not whole else shown.json(text, parsed)


def redacted(value: Any, key: str) -> Any:
    """A JSON value with its secrets hashed with `key`: everything below a secret's name, and what has a secret's form.

    Mappings and lists keep their form; true, false, null and an empty text are no secrets.
    """
    return _Shown(key).value(value)


def is_secret(name: str) -> bool:
    """Whether a key names a secret: `hf_token`, `api-key`, `db.password`; not `eos_token` or `max_tokens`."""
    words = [word.lower() for word in _WORD.findall(name)]
    if _EXACT & set(words) or _NAMES.search("".join(words)) or not words:
        return bool(words)
    last = words[-2] if words[-1] in ("value", "key") and len(words) > 1 else words[-1]
    before = words[words.index(last) - 1] if words.index(last) else ""
    if last.endswith("tokens"):
        return (last.removesuffix("tokens") or before) in _SECRET_TOKENS
    return last.endswith("token") and (last.removesuffix("token") or before) not in _PLAIN_TOKENS


class _Shown:
    """What is shown instead, for one key."""

    def __init__(self, key: str) -> None:
        self._key = key

    def hashed(self, value: str) -> str:
        # A lone surrogate, which JSON can name, has no bytes to hash.
        plain = value.encode(errors="backslashreplace").decode()
        return f"{_HASH}{env_hashes([f'x={plain}'], self._key)['x']}" if value else value

    def json(self, written: str, parsed: Any) -> str:
        """`written` where nothing in what was parsed of it is a secret."""
        shown = self.value(parsed)
        return written if shown == parsed else json.dumps(shown, indent=2)

    def value(self, value: Any, secret: bool = False) -> Any:
        if isinstance(value, dict):
            below = {name: secret or is_secret(name) or _is_value_of_secret(value, name) for name in value}
            return {self._formed(name): self.value(inner, below[name]) for name, inner in value.items()}
        if isinstance(value, list):
            before = ["", *value]
            return [self.value(inner, secret or _is_option(before[at])) for at, inner in enumerate(value)]
        if isinstance(value, str):
            return self.hashed(value) if secret else self.text(value)
        return self.hashed(str(value)) if secret and value is not None and not isinstance(value, bool) else value

    def text(self, text: str) -> str:
        """A text with the secrets in it hashed: JSON, options, assignments, headers, and what has a secret's form."""
        if text.lstrip()[:1] in ("{", "["):
            parsed, whole = _parsed(text)
            if whole:
                return self.json(text, parsed)
        text = _HEADER.sub(lambda found: f"{found[1]}{self.hashed(found[2])}", text)
        return self._formed(self._assigned(text))

    def _assigned(self, text: str) -> str:
        """Values after a secret's name; those of other names may hold such names themselves."""
        pieces, at, of_secret = [], 0, False
        while found := _NAMED.search(text, at):
            name, start = found[1] or found[2], found.end()
            pieces.append(text[at:start])
            at = start
            if is_secret(name) or (of_secret and name in _VALUES):
                at = _end_of_value(text, start)
                pieces.append(self._in_quotes(text[start:at]))
            elif name in _KEYS:
                said = _WORD_IN_QUOTES.match(text, start)
                of_secret = bool(said and is_secret(said[1]))
        return "".join([*pieces, text[at:]])

    def _in_quotes(self, value: str) -> str:
        quote = _OPENED.match(value)
        inner = value.removeprefix(quote[0]).removesuffix(quote[0]) if quote else value
        shown = inner if inner in _KEPT or _HASHED.fullmatch(inner) else self.hashed(inner)
        return f"{quote[0]}{shown}{quote[0]}" if quote else shown

    def _formed(self, text: str) -> str:
        text = _SHAPES.sub(lambda found: self.hashed(found[0]), text)
        return _URL_PASSWORD.sub(lambda found: f"{found[1]}:{self.hashed(found[2])}", text)


def _parsed(text: str) -> tuple[Any, bool]:
    """JSON, and whether it could be read as a whole; a name that is given twice hides its first value."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name is given twice")
        return dict(pairs)

    try:
        return json.loads(text, strict=False, object_pairs_hook=unique), True
    except (ValueError, RecursionError):
        return None, False


def _is_value_of_secret(pair: dict[str, Any], name: str) -> bool:
    """`{"key": "hf_token", "value": …}` and `{"name": "HF_TOKEN", "value": …}`."""
    names = (pair.get(field) for field in _KEYS)
    return name in _VALUES and any(isinstance(n, str) and is_secret(n) for n in names)


def _end_of_value(text: str, at: int) -> int:
    """The end of a string, a list or an object, of what is left of one that does not end, or of a bare word."""
    if text[at : at + 1] in ("[", "{"):
        return _end_of_brackets(text, at)
    string, opened = _STRING.match(text, at), _OPENED.match(text, at)
    if string or not opened:
        return (string or _BARE.match(text, at) or opened).end()  # type: ignore[union-attr]
    closed = text.find(opened[0], opened.end())
    return closed + len(opened[0]) if closed >= 0 else len(text)


def _end_of_brackets(text: str, at: int) -> int:
    depth = 0
    for found in _BRACKETS.finditer(text, at):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if not depth:
            return found.end()
    return len(text)


def _is_option(word: Any) -> bool:
    """`--token`, before its value in a list of arguments."""
    found = re.fullmatch(r"--?([\w.-]+)", word) if isinstance(word, str) else None
    return bool(found and is_secret(found[1]))
