from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import migrate.collect
from migrate.collect.__main__ import main


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "phi2"}'])
def test_an_unusable_job_is_refused_and_leaves_no_file(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.json").write_text(text)
    assert main(["parity", str(tmp_path / "job.json"), str(tmp_path / "out.jsonl")]) == 2
    assert "cannot use" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command_writes_a_complete_file_of_errors_where_nobody_answers(tmp_path: Path) -> None:
    dead = "http://127.0.0.1:9"
    job = {"triton": dead, "vllm": dead, "model": "phi2", "prompts": ["a"], "max_tokens": 1}
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "migrate.collect", "parity", "job.json", "out.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    *records, trailer = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [bool(record["error"]) for record in records] == [True] * 4
    assert (trailer["complete"], trailer["records"], trailer["kind"]) == (True, 4, "parity")
    assert "1 of 1 prompts, 4 errors" in done.stderr


def test_collect_is_a_leaf() -> None:
    allowed = {"aiohttp", *sys.stdlib_module_names}
    for file in Path(next(iter(migrate.collect.__path__))).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            foreign = [n for n in names if n.split(".")[0] not in allowed and not n.startswith("migrate.collect")]
            assert not foreign, f"{file.name} imports {foreign}"
