"""The witness: clients that ask without a pause from before a migration to after it, and remember every answer.

`watch` asks and writes one record per request; `summarise` and `reconcile` are pure and turn the records into figures.
"""

from migrate.witness.client import watch
from migrate.witness.config import WitnessConfig
from migrate.witness.figures import Gap, reconcile, summarise
from migrate.witness.records import Record, WitnessRun, read

__all__ = ["Gap", "Record", "WitnessConfig", "WitnessRun", "read", "reconcile", "summarise", "watch"]
