"""Differentiation of any order, in both modes, through both stages; and `vmap`."""

from stagekit.autodiff.batch import Batch
from stagekit.autodiff.custom import checkpoint, custom_jvp, custom_vjp
from stagekit.autodiff.gradients import grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp
from stagekit.autodiff.mapping import vmap
from stagekit.autodiff.tape import Dual, GradientTape, Tape
from stagekit.ops import stop_gradient

__all__ = [
    "Batch",
    "Dual",
    "GradientTape",
    "Tape",
    "checkpoint",
    "custom_jvp",
    "custom_vjp",
    "grad",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "stop_gradient",
    "value_and_grad",
    "vjp",
    "vmap",
]
