"""Running ops at once, and the protocols by which other libraries meet a tensor.

Importing this folder makes `Tensor` whole: the interpreter is installed, all methods are attached.
"""

from stagekit.eager import interpreter, protocols

__all__ = ["interpreter", "protocols"]
