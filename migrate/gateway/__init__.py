"""A server that speaks Triton's HTTP protocol in front of vLLM, so that Triton's clients keep working.

A leaf: it imports nothing from the rest of `migrate`; its YAML file (`config.py`) is the whole contract. One request
runs `app` -> `fields` (Triton's JSON) -> `styles` (what to ask vLLM) -> `upstream` (vLLM) -> `replies` (Triton's JSON).
"""
