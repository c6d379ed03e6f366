"""Triton's gRPC protocol."""
