"""Performance: whether vLLM, on the clients' path, is as fast as Triton, decided from records of interleaved blocks."""
