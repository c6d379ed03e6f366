"""From what Triton serves to the settings of vLLM: pure functions, from texts to values.

`translate_all` reads every model of a repository, `group` makes engines of those that move, `as_text` shows one.
"""

from migrate.translate.engines import Engine, group, refuse_shared_ports
from migrate.translate.records import Entry, Outcome, Source, Sure, Translation
from migrate.translate.text import as_text
from migrate.translate.translation import sources, translate, translate_all

__all__ = [
    "Engine",
    "Entry",
    "Outcome",
    "Source",
    "Sure",
    "Translation",
    "as_text",
    "group",
    "refuse_shared_ports",
    "sources",
    "translate",
    "translate_all",
]
