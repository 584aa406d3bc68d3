"""Run the comparisons named on the command line, or all, and print Markdown tables.

`python -m benchmarks workloads` is the table of native CPU code, with options of its own.
"""

from __future__ import annotations

import sys

from benchmarks import fourier, gradient, imports, jacobian, neural, sorting, table
from benchmarks.timing import machine

MODULES = {
    "imports": imports,
    "gradient": gradient,
    "jacobian": jacobian,
    "neural": neural,
    "sorting": sorting,
    "fourier": fourier,
}


def main(names: list[str]) -> None:
    """Print where it is measured, then each comparison as it is ready."""
    print(machine(), end="\n\n")
    for name in names or MODULES:
        for comparison in MODULES[name].compare():
            print(comparison, end="\n\n", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["workloads"]:
        table.main(sys.argv[2:])
    else:
        main(sys.argv[1:])
