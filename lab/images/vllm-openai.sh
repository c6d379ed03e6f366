#!/bin/sh
# vLLM's CPU build on top of the shared layer. Wheels are in /wheels.
set -eu
/opt/venv/bin/pip install --quiet --no-index --find-links /wheels --no-deps --no-compile --no-cache-dir \
    --disable-pip-version-check --requirement /lab/requirements/vllm.txt
rm -f /opt/venv/bin/vllm
install -m 0755 /lab/images/vllm /usr/local/bin/vllm
