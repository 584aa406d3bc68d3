"""Artifacts: `save` writes functions to one data-only file, `load` stages them again.

`stagekit.export.runtime` runs such a file with NumPy alone. Names are found at their first use.
"""

import importlib

_places = {"save": "writer", "load": "loader"}

__all__ = ["load", "runtime", "save"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'stagekit.export' has no attribute {name!r}")
    if name in _places:
        value = getattr(importlib.import_module(f"stagekit.export.{_places[name]}"), name)
    else:
        value = importlib.import_module(f"stagekit.export.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
