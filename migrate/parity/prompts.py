"""The built-in prompts: short, of many kinds, and free of anybody's data."""

from __future__ import annotations

from collections.abc import Sequence

CODE = (
    "def add(a, b):",
    "def fibonacci(n):\n    ",
    "class Stack:\n    def __init__(self):",
    "import os\nimport sys\n\n",
    "for index, value in enumerate(",
    "with open(path, encoding='utf-8') as",
    "try:\n    value = int(text)\nexcept",
    "return sorted(items, key=lambda",
    "if __name__ == '__main__':",
    "def __repr__(self):\n        return",
    "raise ValueError(",
    "async def fetch(session, url):",
    "@property\n    def name(self):",
    "assert len(result) ==",
    "numbers = [x * x for x in range(10)]\nprint(",
    "while True:\n    line = stream.readline()\n    if not line:",
    "from collections import",
    "logger.debug('",
    "#!/usr/bin/env python3\n",
    "SELECT name, count(*) FROM users WHERE",
    "#include <stdio.h>\n\nint main(void) {",
    '{"name": "example", "version":',
    "<html>\n  <head>\n    <title>",
    "$ git commit -m",
)

ENGLISH = (
    "The capital of France is",
    "Once upon a time there was",
    "The quick brown fox",
    "Return the number of",
    "This module provides",
    "A list of strings that",
    "If the file does not exist,",
    "The following example shows how to",
    "Water boils at a temperature of",
    "To be, or not to be,",
    "Dear colleagues,\n\nI am writing to",
    "Instruct: Explain why the sky is blue.\nOutput:",
    "Question: What is 7 times 8?\nAnswer:",
    "Alice: Hello, how are you?\nBob:",
    "Summary: the server did not start because",
    "In the beginning",
    "Note that",
    "Raises an exception when",
    "It is not safe to",
    "The main difference between a list and a tuple is",
)

NEARLY_EMPTY = ("a", "The", "0", ".", "(", "\n", " def", "#", '"""', "1, 2, 3,")

UNICODE = (
    "Größe und Gewicht:",
    "Où est la bibliothèque ?",
    "El niño comió una manzana y",
    "Привет, мир!",
    "你好,世界",
    "日本語のテキスト",
    "안녕하세요",
    "emoji: 😀🚀",
    "π ≈ 3.14159, √2 ≈",
    "naïve café – “quoted”",
    "tab\tand\r\ncarriage return",
    "e\u0301 is not the same as é",
)


def _mixed(*kinds: Sequence[str]) -> tuple[str, ...]:
    """All prompts in an order in which every beginning holds its share of each kind."""
    placed = [((place + 0.5) / len(kind), prompt) for kind in kinds for place, prompt in enumerate(kind)]
    return tuple(prompt for _, prompt in sorted(placed, key=lambda item: item[0]))


PROMPTS = _mixed(CODE, ENGLISH, NEARLY_EMPTY, UNICODE)
