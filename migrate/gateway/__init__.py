"""A server that speaks Triton's protocol over HTTP and gRPC in front of vLLM, so that Triton's clients keep working.

A leaf: it imports nothing from the rest of `migrate`; its YAML file (`config.py`) is the whole contract. `web` (HTTP)
and `rpc` (gRPC) make a `core.inference.InferRequest` of what comes, and write the answer. `core.engine` answers it:
`core.validation` (Triton's own checks) -> `mapping.styles` (what to ask) -> `vllm.upstreams` -> `mapping.replies`
(tensors). `openai` is the /v1 side, `observe` what an operator sees, `serving` puts the listeners into one event loop.
"""
