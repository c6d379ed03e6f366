"""Figures about speed, as ratios measured in one run; `python -m benchmarks.<name> --json` prints one JSON object."""
