"""The parts of `hostctl`: standard library only, Python 3.10 or newer, installed beside the script."""

VERSION = "0.1.0"
