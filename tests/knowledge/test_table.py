from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version

from migrate.knowledge import image, load, metrics
from migrate.knowledge.page import MARK, render, write
from migrate.knowledge.table import Row
from migrate.translate import engine

PAGE = Path(__file__).parents[2] / "docs" / "releases.md"
TABLE = load()
ROWS = [*TABLE.flags.values(), *TABLE.environment.values(), *TABLE.metrics.values()]


def test_every_row_has_a_source_and_a_span_within_the_table() -> None:
    for row in ROWS:
        assert row.source, row
        assert (row.since or TABLE.first) < (row.until or Version("999")), row
        assert row.since is None or TABLE.first < row.since <= TABLE.last, row
        assert row.until is None or TABLE.first < row.until <= TABLE.last, row


def test_the_flags_of_031_are_those_that_its_own_help_prints() -> None:
    printed = (Path(__file__).parent / "cases" / "options_0.31.0.txt").read_text().split()
    assert sorted(name for name, row in TABLE.flags.items() if row.covers(Version("0.31.0"))) == printed


def test_every_flag_and_metric_that_is_gone_names_what_to_write_instead() -> None:
    gone = [row for row in (*TABLE.flags.values(), *TABLE.metrics.values()) if row.until]
    assert gone
    assert [row.name for row in gone if not row.replacement] == []


def test_what_replaces_a_flag_is_a_flag_of_a_later_release() -> None:
    for name, row in TABLE.flags.items():
        first = row.replacement.split(":")[0].split(",")[0].split(" ")[0]
        if row.until and first not in {"leave", "none"}:
            assert first in TABLE.flags, f"{name} → {first}"
            assert TABLE.flags[first].until is None or TABLE.flags[first].until > row.until, f"{name} → {first}"


def test_the_rules_and_what_never_was_are_complete() -> None:
    for rule in TABLE.rules:
        assert rule.problem
        assert rule.releases.replacement
        assert rule.releases.source
        assert rule.severity in {"error", "review"}
        assert not rule.flag or rule.flag in TABLE.flags
    for name, never in TABLE.never.items():
        assert name not in TABLE.flags
        assert never.problem
        assert never.replacement
        assert never.source


def test_switches_are_flags_and_the_engine_arguments_that_are() -> None:
    arguments = engine.table()
    assert set(TABLE.flags) >= TABLE.switches
    assert [name for name in arguments["switches"] if not TABLE.is_switch(name.replace("_", "-"))] == []
    assert [name for name in arguments["values"] if TABLE.is_switch(name.replace("_", "-"))] == []


def test_the_images_follow_each_other_without_a_gap() -> None:
    spans = [(row.releases.since, row.releases.until) for row in TABLE.images]
    assert [until for _, until in spans[:-1]] == [since for since, _ in spans[1:]]
    assert spans[-1][1] is None
    assert all(row.releases.source for row in TABLE.images)


@pytest.mark.parametrize(
    ("version", "variant", "cuda"),
    [
        ("0.11.0", "", "12.8.1"),
        ("0.11.1", "", "12.9.1"),
        ("0.19.1", "cu130", "13.0"),
        ("0.19.1", "", "12.9.1"),
        ("0.20.0", "", "13.0"),
        ("0.20.0", "cu129", "12.9"),
        ("0.20.0", "cu130", None),
        ("0.31.0", "", "13.0"),
        ("0.5.0", "", None),
        ("0.99.0", "", None),
        ("nightly", "", None),
    ],
)
def test_the_cuda_of_an_image_and_of_its_variant(version: str, variant: str, cuda: str | None) -> None:
    found = image(version, variant)
    assert (found and found.cuda) == cuda


def test_torch_nccl_and_entry_point() -> None:
    now, then = image("0.31.0"), image("0.11.0")
    assert now and (now.torch, now.nccl, now.entrypoint) == ("2.13.0", "2.29.7", "vllm serve")
    assert then and then.entrypoint == "api_server"


def test_metrics_of_a_release() -> None:
    assert "vllm:kv_cache_usage_perc" in metrics("0.31.0")
    assert "vllm:gpu_cache_usage_perc" not in metrics("0.31.0")
    assert "vllm:gpu_cache_usage_perc" in metrics("0.11.2")
    assert metrics("nightly") == frozenset()


def test_a_row_covers_its_first_release_and_not_its_until() -> None:
    row = Row("x", Version("0.10.0"), Version("0.10.2"), "", "")
    covered = [v for v in ("0.9.2", "0.10.0", "0.10.1.1", "0.10.2") if row.covers(Version(v))]
    assert covered == ["0.10.0", "0.10.1.1"]


def test_the_page_says_what_the_table_says() -> None:
    generated = PAGE.read_text(encoding="utf-8").partition(MARK)[2]
    assert MARK + generated == render(TABLE), "run: python -m migrate.knowledge.page docs/releases.md"


def test_a_page_is_rewritten_after_its_mark_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Ours\n{MARK}old\n")
    write(page)
    assert page.read_text().startswith(f"# Ours\n{MARK}")
    assert "old\n" not in page.read_text().partition(MARK)[2][:4]
    page.write_text("no mark")
    with pytest.raises(ValueError, match="no line"):
        write(page)
