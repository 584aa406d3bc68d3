"""Run the public conformance suite of the array API standard on stagekit.

    python tools/conformance.py SUITE [--staged] [pytest arguments]

SUITE is a copy of github.com/data-apis/array-api-tests with its submodule `array-api`; what it
needs is in its requirements.txt. Runs revision 2025.12, eagerly, or with every function wrapped in
`sk.function` (`tools/staged_namespace.py`), and prints the suite's commit and its summary line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REVISION = "2025.12"


def main(arguments: list[str]) -> int:
    suite, *rest = arguments
    staged = "--staged" in rest
    more = [a for a in rest if a != "--staged"]
    module = "tools.staged_namespace" if staged else "stagekit"
    environment = os.environ | {
        "ARRAY_API_TESTS_MODULE": module,
        "ARRAY_API_TESTS_VERSION": REVISION,
        "PYTHONPATH": str(ROOT),
    }
    head = ["git", "-C", suite, "rev-parse", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip()
    print(f"{module}, revision {REVISION}, suite {commit}", flush=True)
    command = [sys.executable, "-m", "pytest", "array_api_tests", "-q", "-rs", *more]
    return subprocess.run(command, cwd=suite, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
