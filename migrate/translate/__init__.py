"""From what Triton serves to the settings of vLLM: pure functions, from texts to values.

`translate_all` reads every model of a repository, `group` makes engines of those that move.
"""

from migrate.translate.engines import Engine, group
from migrate.translate.records import Entry, Outcome, Source, Sure, Translation
from migrate.translate.translation import sources, translate, translate_all

__all__ = [
    "Engine",
    "Entry",
    "Outcome",
    "Source",
    "Sure",
    "Translation",
    "group",
    "sources",
    "translate",
    "translate_all",
]
