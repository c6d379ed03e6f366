"""The widely copied table of an RTX 5090, judged row by row; `docs/fit.md` shows the same rows."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate import fit
from migrate.fit import Expectations, Setting, cards

from .cases import CASES, model

CARD = cards.get("rtx-5090")
ROWS: list[dict[str, Any]] = yaml.safe_load((CASES / "rtx-5090-table.yaml").read_text(encoding="utf-8"))
PAGE = Path(__file__).parents[2] / "docs" / "fit.md"


def judged(row: dict[str, Any]) -> dict[str, Any]:
    chosen, setting = model(row["model"]), Setting(row["context"])
    result = fit.fit(chosen, CARD.memory, setting)
    speed = fit.judge(chosen, CARD, setting, Expectations(tokens_per_s=row.get("tokens_per_s")))
    changes = fit.nearest(chosen, CARD.memory, setting, CARD)
    return {
        "result": result,
        "memory": result.share >= result.needed,
        "own": result.context <= result.own_context,
        "speed": speed[0].verdict if speed else None,
        "bound": speed[0].bound if speed else None,
        "fits": result.fits,
        "nearest": changes[0].what if changes else None,
        "cards": fit.cards_needed(chosen, CARD.memory, setting),
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["model"])
def test_each_row(row: dict[str, Any]) -> None:
    found = judged(row)
    for part in ("memory", "own", "speed", "fits", "nearest", "cards"):
        assert found[part] == row.get(part), part


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["model"])
def test_the_page_shows_the_row(row: dict[str, Any]) -> None:
    assert line(row) in PAGE.read_text(encoding="utf-8")


def line(row: dict[str, Any]) -> str:
    found = judged(row)
    result = found["result"]
    memory = f"{'yes' if found['memory'] else 'no'}: {max(0, result.tokens):,} tokens"
    own = f"{'yes' if found['own'] else 'no'}: {result.own_context:,}"
    speed = f"{found['speed']}: {row['tokens_per_s']} of {found['bound']:.0f} tok/s" if found["speed"] else "-"
    verdict = "**fits**" if found["fits"] else f"no; {found['nearest']}"
    return f"| {row['model']} | {row['context']:,} | {memory} | {own} | {speed} | {verdict} |"
