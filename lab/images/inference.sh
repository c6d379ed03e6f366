#!/bin/sh
# The layer that both servers share: one virtual environment with torch and transformers. Wheels are in /wheels.
set -eu
python3 -m venv /opt/venv
/opt/venv/bin/pip install --quiet --no-index --find-links /wheels --no-deps --no-compile --no-cache-dir \
    --disable-pip-version-check --requirement /lab/requirements/inference.txt
cd /opt/venv/lib/python3.11/site-packages
rm -rf torch/include torch/test
