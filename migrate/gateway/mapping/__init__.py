"""From Triton's kinds of models to vLLM's /v1/completions, and from its answers back to their outputs."""
