"""Prints what vLLM's source needs to be built, without torch: that is here already. Run in the source tree.

Where the torch here is not the one that the release pins (a nightly, or one of the base image), its pins are taken out
of the source first, by the release's own tool.
"""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

TOOLS = ("tools/use_existing_torch.py", "use_existing_torch.py")


def main() -> int:
    """0 where the list was printed; pins are loosened where the installed torch is not the one they name."""
    text = Path("pyproject.toml").read_text()
    listed = re.search(r"^requires\s*=\s*\[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    wanted = re.findall(r'^\s*"([^"]+)"', listed[1], re.MULTILINE) if listed else []
    pinned = [re.sub(r".*==\s*", "", line) for line in wanted if re.match(r"torch\s*==", line)]
    if metadata.version("torch").partition("+")[0] not in pinned:
        tool = next((path for path in TOOLS if Path(path).is_file()), None)
        if tool is None:
            print("migrate: this release has no use_existing_torch.py: image_torch: stable", file=sys.stderr)
            return 1
        loosen = [sys.executable, tool, "--prefix"]
        subprocess.run(loosen, check=True, stdout=sys.stderr)  # noqa: S603 - argv is ours
    print("\n".join([*(line for line in wanted if not line.startswith("torch")), "regex"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
