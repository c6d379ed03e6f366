"""Parity: whether vLLM answers as Triton did, decided on the controller from records of the host."""
