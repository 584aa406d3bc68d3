"""`samples(op)` covers the operand types an op takes, broadcasting, 0-d, zero-size, layouts, values
and kinks; `composites()` pairs functions with what NumPy or SciPy has for them.
"""

import importlib
import pkgutil

from tests.samples.base import (
    ALL,
    ARITY,
    DEFINITIONS,
    DOMAIN,
    FLOATS,
    LAYOUTS,
    Composite,
    Sample,
    composites,
    random,
    samples,
    smooth_samples,
    special_values,
)

for _family in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_family.name}")

__all__ = [
    "ALL", "ARITY", "DEFINITIONS", "DOMAIN", "FLOATS", "LAYOUTS", "Composite", "Sample",
    "composites", "random", "samples", "smooth_samples", "special_values",
]  # fmt: skip
