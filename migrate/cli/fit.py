"""`migrate fit`: does a model fit a card, where does its memory go, and what would make it fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from migrate.cli.app import JsonOption, app
from migrate.cli.output import Output
from migrate.errors import Refused, UsageError
from migrate.fit import Expectations, Fit, Model, Setting, cards_needed, fit, load, nearest, view
from migrate.fit import cards as known
from migrate.fit.bounds import tokens_per_s
from migrate.fit.cards import Card
from migrate.fit.memory import UTILIZATION
from migrate.fit.units import parse_memory


@app.command("fit", rich_help_panel="Inspect")
def fit_(
    directory: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Directory with config.json.")],
    vram: Annotated[str, typer.Option("--vram", help="Memory of one card, such as 32GiB.")] = "",
    card: Annotated[str, typer.Option("--card", help="Card, such as rtx-5090, or its name in nvidia-smi.")] = "",
    context: Annotated[int, typer.Option("--context", help="Tokens; default: the model's own context.")] = 0,
    utilization: Annotated[float, typer.Option("--utilization", help="vLLM's share of the card.")] = UTILIZATION,
    tensor_parallel: Annotated[int, typer.Option("--tensor-parallel", help="Cards that share the model.")] = 1,
    kv_dtype: Annotated[str, typer.Option("--kv-dtype", help="auto, fp8 ...")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say whether a model fits a card, from its weights or only its config.json, and what would make it fit.

    Example: migrate fit /models/Qwen2.5-7B-Instruct --vram 32GiB
    """
    chosen = known.get(card) if card else None
    if not vram and chosen is None:
        raise UsageError("neither --vram nor --card is given", advice=f"migrate fit {directory} --vram 32GiB")
    memory = parse_memory(vram) if vram else chosen.memory if chosen else 0
    model, setting = load(directory), Setting(context, utilization, tensor_parallel, kv_dtype)
    result = fit(model, memory, setting)
    changes = nearest(model, memory, setting, chosen)
    needed = cards_needed(model, memory, setting)
    speeds = _speeds(model, chosen, result)
    data = view.as_json(result, changes, needed, speeds) | {"architecture": model.config.architecture}
    Output(as_json=as_json).result("fit", data, view.as_text(model, result, changes, speeds, chosen))
    if not result.fits:
        raise typer.Exit(Refused.exit_code)


def _speeds(model: Model, card: Card | None, result: Fit) -> tuple[float, float] | None:
    if card is None:
        return None
    empty = tokens_per_s(model, card, result.setting, Expectations())
    full = tokens_per_s(model, card, result.setting, Expectations(context=result.context))
    return (empty, full) if empty and full else None
