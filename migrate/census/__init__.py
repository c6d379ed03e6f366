"""Who calls Triton today, and what becomes of each caller: rows for the plan, from facts and settings. Pure."""

from migrate.census.client import Client, How, Verdict
from migrate.census.judge import census
from migrate.census.notes import notes
from migrate.census.table import as_dicts, as_text

__all__ = ["Client", "How", "Verdict", "as_dicts", "as_text", "census", "notes"]
