"""Move GPU hosts from Triton Inference Server to vLLM, with evidence, and back."""

__version__ = "0.1.0"
