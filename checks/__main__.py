"""Runs one check of this folder, or of its archive: `python3 checks triton_serving '{…}'`."""

from __future__ import annotations

import sys
from importlib import import_module

from shared.verdict import main

if __name__ == "__main__":
    sys.exit(main(import_module(sys.argv[1]).check, sys.argv[1:]))
