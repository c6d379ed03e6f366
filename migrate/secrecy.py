"""Which names stand for a secret: settings, flags, variables and models' parameters are held against this. Pure."""

from __future__ import annotations

import re

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_EXACT = {"auth", "authorization", "bearer", "credential", "credentials", "passphrase", "pwd", "secret", "secrets"}
_JOINED = re.compile(r"passw(or)?d|apikey|accesskey|privatekey|signingkey|apitoken")
# Before `token` a word of a tokenizer; before `tokens`, which are usually counted, a word of a login.
_PLAIN_TOKENS = {"bos", "eos", "pad", "unk", "sep", "cls", "mask", "image", "video", "audio", "start", "end", "stop"}
_SECRET_TOKENS = {"hf", "hub", "auth", "api", "access", "refresh", "login"}


def is_secret(name: str) -> bool:
    """Whether a name stands for a secret: hf_token, api-key and db.password do, max_tokens and eos_token do not."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or _EXACT & set(words) or _JOINED.search("".join(words)):
        return bool(words)
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last.endswith("tokens"):
        return (last.removesuffix("tokens") or before) in _SECRET_TOKENS
    return last.endswith("token") and (last.removesuffix("token") or before) not in _PLAIN_TOKENS
