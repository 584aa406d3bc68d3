"""`python -m stagekit describe model.stagekit`, `python -m stagekit cache --info`: commands on the
files that stagekit writes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stagekit.errors import StagekitError
from stagekit.export.runtime import describe
from stagekit.kernels.machine import cache

_USAGE = """\
usage: python -m stagekit describe FILE ...
       python -m stagekit cache --info | --clear"""


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns its exit status."""
    try:
        match list(arguments):
            case ["describe", _, *_]:
                for file in arguments[1:]:
                    print(describe(file))
            case ["cache", "--info"]:
                print(cache.report())
            case ["cache", "--clear"]:
                print(cache.clear())
            case _:
                print(_USAGE, file=sys.stderr)
                return 2
    except (StagekitError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
