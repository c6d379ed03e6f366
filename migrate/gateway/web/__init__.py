"""Triton's HTTP protocol, and what every HTTP request passes on its way in and out."""
