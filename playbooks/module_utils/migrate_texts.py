"""Takes secrets out of the texts of a model's directory: a value under a secret-looking key becomes a keyed hash.

The text keeps its form, so that what reads it finds the same fields on the same lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ansible.module_utils.migrate_host import env_hashes

_STRING = r'"(?:\\.|[^"\\\n])*"'
_PROTOBUF = re.compile(rf"#[^\n]*|{_STRING}|'(?:\\.|[^'\\\n])*'|[{{}}<>]|[A-Za-z_]\w*", re.DOTALL)
_PAIR = re.compile(rf"({_STRING})(\s*:\s*)({_STRING}|\[[^\[\]{{}}]*\])")
_NAMES = re.compile(
    r"pass(word|wd|phrase)|secret|(api|access|private)[-_.]?key|credential|authorization|bearer", re.IGNORECASE
)
_TOKEN = re.compile(r"(?:([a-z]+)[-_.]?)?token$", re.IGNORECASE)
# A tokenizer's special tokens, and settings that are about tokens; every other `…_token` is taken for a secret.
_PLAIN_TOKENS = frozenset(
    "bos eos pad unk sep cls mask image audio video boi eoi start end stop special extra added max min num per".split()
)
# Tokens of Hugging Face, OpenAI-like services, NVIDIA's NGC and GitHub; and a password within a URL.
_SHAPES = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|nvapi-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,})")
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@\"']*):([^@/\s\"']+)(?=@)")

Hash = Callable[[str], str]


def without_secrets(name: str, text: str, key: str) -> str:
    """The text of the file `name` (JSON or protobuf text format) with its secrets hashed with `key`."""

    def hashed(value: str) -> str:
        return f"keyed-hash:{env_hashes([f'x={value}'], key)['x']}"

    text = _protobuf(text, hashed) if name.endswith(".pbtxt") else _json(text, hashed)
    text = _SHAPES.sub(lambda found: hashed(found[0]), text)
    return _URL_PASSWORD.sub(lambda found: f"{found[1]}:{hashed(found[2])}", text)


def is_secret(name: str) -> bool:
    """Whether a key names a secret: `hf_token`, `api-key`, `db.password`; not `eos_token` or `max_tokens`."""
    token = _TOKEN.search(name)
    return bool(_NAMES.search(name) or (token and (token[1] or "").lower() not in _PLAIN_TOKENS))


def _json(text: str, hashed: Hash) -> str:
    def replaced(found: re.Match[str]) -> str:
        name, between, value = found[1], found[2], found[3]
        if not is_secret(name[1:-1]) or value in ('""', "[]"):
            return found[0]
        return name + between + re.sub(_STRING, lambda text: f'"{hashed(text[0][1:-1])}"', value)

    return _PAIR.sub(replaced, text)


def _protobuf(text: str, hashed: Hash) -> str:
    """In a block whose `key:` is a secret's name, every other string is a secret; the order of fields is free."""
    spans = sorted(_secret_spans(text))
    pieces, at = [], 0
    for start, end in spans:
        pieces += [text[at:start], f'"{hashed(text[start + 1 : end - 1])}"']
        at = end
    return "".join([*pieces, text[at:]])


def _secret_spans(text: str) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    blocks: list[_Block] = [_Block()]
    field = ""
    for token in _PROTOBUF.finditer(text):
        word = token[0]
        if word[0] == "#":
            continue
        if word in "{<":
            blocks.append(_Block())
        elif word in "}>" and len(blocks) > 1:
            closed = blocks.pop()
            found |= closed.secrets()
            blocks[-1].strings += closed.strings
        elif word[0] in "\"'":
            blocks[-1].add(field, word[1:-1], token.span())
        else:
            field = word
    return found.union(*(block.secrets() for block in blocks))


class _Block:
    """One message of the text format: its `key`, and where its strings are."""

    def __init__(self) -> None:
        self.key = ""
        self.strings: list[tuple[int, int]] = []

    def add(self, field: str, text: str, span: tuple[int, int]) -> None:
        """Remember a string of the field."""
        if field == "key":
            self.key = text
        else:
            self.strings.append(span)

    def secrets(self) -> set[tuple[int, int]]:
        """Where the strings are that must not be seen; none for a key that is no secret's name."""
        return set(self.strings) if is_secret(self.key) else set()
