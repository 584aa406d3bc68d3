"""Neural networks: `sk.nn.functional`."""

import stagekit.eager  # noqa: F401  (makes tensors whole, where this folder is imported first)
from stagekit.nn import functional

__all__ = ["functional"]
