"""What the checks have in common. Its modules, like them, need Python's standard library alone."""
