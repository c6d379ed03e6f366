"""The table of failures: complete, without contradiction, and the one that the page is written from."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from typer.main import get_command

from migrate.cli.app import app, load
from migrate.knowledge import failures
from migrate.knowledge.failures import Failure
from migrate.knowledge.failures_page import MARK, render, write
from migrate.settings import known_settings

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
CHECKS = {path.stem for path in (PAGE.parents[1] / "checks").glob("[!_]*.py")}
TABLE = failures.load()
PLACES = {"machine", "kernel", "nvidia-smi", "systemd", "engine", "run", "state", "vllm", "gateway", "triton"}
TITLED = ("GPU not detected", "vLLM import fails", "out of memory")


@pytest.mark.parametrize("row", TABLE.rows, ids=lambda row: row.name)
class TestEveryRow:
    def test_it_is_complete_and_finds_what_it_says(self, row: Failure) -> None:
        assert row.means and row.do and row.source and row.places
        assert set(row.places) <= PLACES
        assert row.title in TABLE.titles
        assert re.search(row.pattern, row.says)

    def test_no_row_before_it_takes_its_text(self, row: Failure) -> None:
        for place in row.places:
            first = next(r for r in TABLE.rows if place in r.places and re.search(r.pattern, row.says))
            assert first is row, place

    def test_what_is_to_be_filled_in_is_known(self, row: Failure) -> None:
        names = {"host", *known_settings(), *(str(n + 1) for n in range(re.compile(row.pattern).groups))}
        for text in (row.do, row.means):
            holes = re.findall(r"(?<!\{)\{([a-z0-9_]+)\}(?!\})", text)
            assert set(holes) <= names, text

    def test_its_advice_is_no_failure_where_a_run_repeats_it(self, row: Failure) -> None:
        told = f"{row.means}; {row.do}"
        assert [r.name for r in TABLE.rows if "run" in r.places and re.search(r.pattern, told)] == []

    def test_every_setting_and_command_that_it_names_exists(self, row: Failure) -> None:
        named = set(re.findall(r"\b(?:vllm|gateway|provision|image|deploy)_[a-z_]+\b", row.do)) - CHECKS
        assert named <= set(known_settings()), named
        load([])
        commands = re.findall(r"`migrate ([a-z]+)", row.do)
        assert set(commands) <= set(get_command(app).commands)  # type: ignore[attr-defined]

    def test_its_ticks_are_closed(self, row: Failure) -> None:
        assert row.do.count("`") % 2 == 0


def test_names_are_used_once() -> None:
    names = [row.name for row in TABLE.rows]
    assert len(names) == len(set(names)) >= 80


def test_the_three_titled_troubles_come_first() -> None:
    assert tuple(TABLE.titles.values())[:3] == TITLED
    assert all(any(TABLE.title_of(row.name) == title for row in TABLE.rows) for title in TITLED)


def test_a_hosts_settings_are_filled_in_as_a_shell_takes_them() -> None:
    filled = {row["name"]: row for row in TABLE.for_host({"host": "gpu01", "vllm_weights_path": "/srv/my models; rm"})}
    assert filled["weights-unreadable"]["do"] == "`sudo chmod -R a+rX '/srv/my models; rm'`"
    assert "--host gpu01" in filled["abi-mismatch"]["do"]
    assert set(filled["nccl-hangs"]) >= {"name", "in", "pattern", "means", "do", "quiet", "last_line"}


def test_the_page_is_that_of_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    head, _, tables = page.partition(MARK)
    assert MARK + tables == render(TABLE)
    assert all(f"## {title[0].upper()}{title[1:]}" in tables or f"## {title}" in tables for title in TITLED)
    assert all(title in head for title in TITLED)


def test_a_page_without_the_mark_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# other\n")
    with pytest.raises(ValueError, match="has no line"):
        write(tmp_path / "page.md")


def test_cells_of_the_page_hold_no_bare_bar() -> None:
    rows = [line for line in render(TABLE).splitlines() if line.startswith("| ") and not line.startswith("| it says")]
    assert len(rows) == len(TABLE.rows)
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {6}
    assert all(set(row) <= set(string.printable) | {"…"} for row in rows)
