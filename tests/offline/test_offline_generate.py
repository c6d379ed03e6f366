"""The program beside vLLM: chunks, refusals, a lock, and taking up what was broken off."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "playbooks/roles/offline/files/offline_generate.py"


class Engine:
    """Requests stay in it where `generate` refuses one of them, as in vLLM 0.6."""

    def __init__(self) -> None:
        self.left = 0

    def has_unfinished_requests(self) -> bool:
        return self.left > 0

    def step(self) -> None:
        self.left -= 1


class Llm:
    """Answers with the prompt in capitals; refuses `long`; ends at `die`."""

    def __init__(self) -> None:
        self.llm_engine, self.calls = Engine(), list[int]()

    def generate(self, prompts: list[Any], sampling: list[Any], use_tqdm: bool) -> list[Any]:
        assert not self.llm_engine.has_unfinished_requests()
        self.calls.append(len(prompts))
        if "die" in prompts:
            raise RuntimeError("the engine is dead")
        if "long" in prompts:
            self.llm_engine.left = prompts.index("long")
            raise ValueError("longer than the maximum model length")
        return [self._output(prompt) for prompt in prompts]

    def _output(self, prompt: Any) -> Any:
        first = types.SimpleNamespace(text=str(prompt).upper(), finish_reason="stop", token_ids=[1])
        return types.SimpleNamespace(outputs=[first], prompt_token_ids=[1, 2])


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("offline_generate", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(SamplingParams=lambda **given: given))
    monkeypatch.setattr(module, "_log_to", lambda path: path.write_text("a line\n"))
    return module


def folder(place: Path, *prompts: str) -> Path:
    (place / "job").mkdir()
    (place / "job" / "job.json").write_text(json.dumps({"model": "/model", "arguments": []}))
    asked = [{"key": prompt, "prompt": prompt, "sampling": {"max_tokens": 1}} for prompt in prompts]
    (place / "job" / "requests.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    return place


def answers(place: Path) -> dict[str, Any]:
    text = (place / "job" / "answers.jsonl").read_text()
    return {line["key"]: line.get("text", line.get("error")) for line in map(json.loads, text.splitlines())}


def test_a_refused_request_has_an_error_and_the_others_answers(program: Any, tmp_path: Path) -> None:
    llm = Llm()
    found = program.answers(llm, [{"key": p, "prompt": p, "sampling": {}} for p in ("a", "b", "long", "c", "d")])
    assert [one.get("text") for one in found] == ["A", "B", None, "C", "D"]
    assert "maximum model length" in found[2]["error"]
    assert sum(llm.calls) < 5 * 5


def test_it_goes_on_where_it_was_broken_off(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path, "a", "b", "die", "c")
    llm = Llm()
    monkeypatch.setattr(program, "CHUNK", 2)
    monkeypatch.setattr(program, "load", lambda job: llm)
    with pytest.raises(RuntimeError):
        program.work(place, "job")
    assert answers(place) == {"a": "A", "b": "B"}
    state = program.wait(place, "job", 0)
    assert (state["state"], state["done"], state["total"], state["running"]) == ("failed", 2, 4, False)
    assert "the engine is dead" in state["error"]
    with (place / "job" / "answers.jsonl").open("a") as file:
        file.write('{"key": "cut o')
    folder_again = (place / "job" / "requests.jsonl").read_text().replace("die", "e")
    (place / "job" / "requests.jsonl").write_text(folder_again)
    llm.calls.clear()
    assert program.work(place, "job") == 0
    assert llm.calls == [2]
    assert program.wait(place, "job", 0)["state"] == "finished"


def test_nothing_is_loaded_where_nothing_is_left(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path, "a")
    (place / "job" / "answers.jsonl").write_text('{"key": "a", "text": "A"}\n')
    monkeypatch.setattr(program, "load", lambda job: pytest.fail("loaded"))
    assert program.work(place, "job") == 0


def test_two_do_not_work_at_once(program: Any, tmp_path: Path) -> None:
    place = folder(tmp_path, "a")
    held = program.lock(place)
    assert program.work(place, "job") == program.BUSY
    assert program.wait(place, "job", 0)["running"]
    held.close()
    assert not program.wait(place, "job", 0)["running"]


def test_any_python_can_ask_how_far_it_is(tmp_path: Path) -> None:
    place = folder(tmp_path, "a", "b")
    argv = [sys.executable, "-I", str(FILE), "wait", str(place), "job", "0"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(done.stdout) | {"last": ""} == {
        "running": False,
        "current": "",
        "state": "starting",
        "error": "",
        "total": 2,
        "done": 0,
        "last": "",
    }
