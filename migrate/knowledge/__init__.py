"""What each vLLM release knows: flags, variables, metrics, defaults, its image. The facts are in `releases.yaml`."""

from migrate.knowledge.check import Finding, Severity, check, check_capability, check_metrics
from migrate.knowledge.release import variant_of, version_of
from migrate.knowledge.table import Image, Table, image, load, metrics

__all__ = [
    "Finding",
    "Image",
    "Severity",
    "Table",
    "check",
    "check_capability",
    "check_metrics",
    "image",
    "load",
    "metrics",
    "variant_of",
    "version_of",
]
