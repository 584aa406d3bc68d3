"""`python -m stagekit describe model.stagekit`: commands on the files that stagekit writes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stagekit.errors import StagekitError
from stagekit.export.runtime import describe

_USAGE = "usage: python -m stagekit describe FILE ..."


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns its exit status."""
    command, *files = arguments or [""]
    if command != "describe" or not files:
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        for file in files:
            print(describe(file))
    except (StagekitError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
