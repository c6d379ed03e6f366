"""Runs the project's checks inside the image that is being built, and ends the build where one does not pass.

Without a GPU `vllm_import` can at best tell nothing against the image; what is not built for CUDA at all leaves
`image_abi` nothing to tell either. Both are said.
"""

import json
import subprocess
import sys

CHECKS = ("image_abi", "vllm_import")


def main(folder: str, device: str) -> int:
    """0 where no check has anything against the image."""
    good = [_passes(folder, name, is_sure=device == "cuda" and name == "image_abi") for name in CHECKS]
    return 0 if all(good) else 1


def _passes(folder: str, name: str, is_sure: bool) -> bool:
    argv = [sys.executable, f"{folder}/{name}.py", "{}"]
    done = subprocess.run(argv, capture_output=True, text=True)  # noqa: S603 - argv is ours
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        print(f"migrate: {name} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
        return False
    print(f"{name}: {found['verdict']}: {found['measured']}")
    good = found["verdict"] == "pass" or (found["verdict"] == "inconclusive" and not is_sure)
    if not good or found["verdict"] == "inconclusive":
        print(f"migrate: {name} is {found['verdict']}: {found['advice']}; {found['detail']}")
    return good


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
