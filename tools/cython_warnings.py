"""Compile every Cython module with -Wextra and fail on any warning."""

import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"


def main() -> int:
    """Translate each module and print what cython says; 0 if it is silent about all of them, else 1."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for module in sorted(SOURCE.rglob("*.pyx")):
            name = ".".join(module.relative_to(SOURCE).with_suffix("").parts)
            command = [sys.executable, "-m", "cython", "-3", "-Wextra", "-I", str(SOURCE), "--module-name", name]
            run = subprocess.run([*command, "-o", f"{folder}/{name}.c", str(module)], capture_output=True, text=True)
            if run.returncode or run.stderr.strip():
                failed += 1
                print(f"{name}:\n{run.stderr}", file=sys.stderr)
    print(f"cython -Wextra: {failed} modules with warnings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
