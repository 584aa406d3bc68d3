"""stagekit: a tensor language embedded in Python with two stages."""
from stagekit.eager import interpreter as _e
from stagekit.ops import *
from stagekit.tensor import Tensor, Variable
from stagekit.types import *
from stagekit.nn import functional as _f
from stagekit import nn
