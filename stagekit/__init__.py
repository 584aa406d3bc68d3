"""stagekit: a tensor language embedded in Python with two stages.

Public names are found at their first use (PEP 562), so that importing the package costs little and
imports no dependency. `PUBLIC` says where each one lives, `__init__.pyi` what it is to a checker.
"""

import importlib

__version__ = "0.1.0"

# Module -> its public names, `name=attribute` where the module calls it otherwise.
PUBLIC = {
    "stagekit.tensor": "Tensor Variable",
    "stagekit.types": """
        bool=bool_ uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32
        float64 complex64 complex128
    """,
    "numpy": "e inf nan newaxis pi",
    "stagekit.ops": """
        array=asarray asarray arange empty empty_like eye full full_like linspace meshgrid ones
        ones_like tril triu zeros zeros_like
        astype can_cast finfo iinfo isdtype result_type
        abs absolute=abs acos acosh add angle arccos=acos arccosh=acosh arcsin=asin arcsinh=asinh
        arctan=atan arctan2=atan2 arctanh=atanh asin asinh atan atan2 atanh ceil clip conj
        conjugate=conj copysign cos cosh divide erf erfc exp exp2 expm1 floor floor_divide hypot
        imag log log10 log1p log2 logaddexp maximum minimum mod=remainder multiply negative
        nextafter positive pow=power power real reciprocal remainder round rsqrt sigmoid sign
        signbit sin sinh softplus sqrt square subtract tan tanh true_divide=divide trunc
        degrees=rad2deg deg2rad digamma gammaln=lgamma lgamma logit nan_to_num polygamma rad2deg
        radians=deg2rad sinc xlogy allclose array_equal isclose
        equal greater greater_equal isfinite isinf isnan less less_equal not_equal where
        logical_and logical_not logical_or logical_xor
        bitwise_and bitwise_invert bitwise_left_shift bitwise_not=bitwise_invert bitwise_or
        bitwise_right_shift bitwise_xor invert=bitwise_invert left_shift=bitwise_left_shift
        right_shift=bitwise_right_shift
        all any argmax argmin count_nonzero logsumexp max mean min prod std sum var
        broadcast_arrays broadcast_to concat concatenate=concat expand_dims flip matrix_transpose
        moveaxis pad permute_dims repeat reshape roll split squeeze stack swapaxes tile transpose
        unstack
        diag diagonal dot einsum inner kron matmul outer tensordot trace vecdot
        argwhere flatnonzero nonzero take take_along_axis
        argsort isin searchsorted sort topk unique unique_all unique_counts unique_inverse
        unique_values
        cumprod=cumulative_prod cumsum=cumulative_sum cumulative_max cumulative_min cumulative_prod
        cumulative_sum diff
    """,
    "stagekit.ops.inspection": """
        __array_api_version__=VERSION __array_namespace_info__=array_namespace_info broadcast_shapes
    """,
    "stagekit.eager.protocols": "from_dlpack",
    "stagekit.placement": "device devices",
    "stagekit.autodiff": """
        GradientTape checkpoint custom_jvp custom_vjp grad hessian hvp jacobian jvp stop_gradient
        value_and_grad vjp vmap
    """,
    "stagekit.tree": "register_pytree",
    "stagekit.saving": "load save",
    "stagekit.profiling": "profile",
    "stagekit.staged": "ConcreteFunction TensorSpec function no_retrace run_eagerly",
    "stagekit.graph": "Graph",
    "stagekit.settings": "config",
    "stagekit.errors": """
        ArgumentError ArtifactError AxisError BoundsError CheckError DTypeError DataDependentError
        DeviceError ExportError LeakedTensorError LinAlgError RetraceError ShapeError StagekitError
        StagekitWarning TraceError
    """,
}
MODULES = "export fft linalg nn random testing"  # public names that are submodules

_places = {
    name: (module, attribute or name)
    for module, names in PUBLIC.items()
    for name, _, attribute in (entry.partition("=") for entry in names.split())
}

__all__ = [*_places, *MODULES.split()]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'stagekit' has no attribute {name!r}")
    importlib.import_module("stagekit.eager")  # the interpreter, and all methods of Tensor
    if name in _places:
        module, attribute = _places[name]
        value = getattr(importlib.import_module(module), attribute)
    else:
        value = importlib.import_module(f"stagekit.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
