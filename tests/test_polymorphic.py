"""Every op traced at each of the sizes 0, 1, 2, 5 and called at each of the others equals eager, in
its result (within the classes of docs/equality.md) or in its error's class and text.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.op import OPS
from tests.classes import admitted, agree
from tests.programs import Input, Program, generate

SIZES = (0, 1, 2, 5)
VARIANTS = 4


def programs_of(name: str) -> list[Program]:
    """A few programs whose last step is the op, on axes of size `a`."""
    found = []
    for seed in range(VARIANTS):
        rng = np.random.default_rng([seed, 3])
        program = generate(rng, 1, [name], {"a": 5, "b": 5}, smooth=False)
        program.inputs = [Input(widened(x.shape), x.dtype, x.layout) for x in program.inputs]
        if program.steps:
            found.append(program)
    return found


def widened(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shape with every symbolic axis of one size."""
    return tuple("a" if isinstance(n, str) else n for n in shape)


def outcome(function: Any, args: list[Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sk.errors.StagekitWarning)
            return [np.asarray(x) for x in function(*args)]
    except (sk.errors.StagekitError, ZeroDivisionError, ValueError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", sorted(OPS))
def test_traced_at_one_size_called_at_another(name: str) -> None:
    programs = programs_of(name)
    assert programs, f"no program for {name}"
    for program in programs:
        for first in SIZES:
            function = sk.function(lambda *args, p=program: p(*args), dynamic=True)
            for size in (first, *(n for n in SIZES if n != first)):
                args = program.arguments({"a": size, "b": size}, np.random.default_rng(1))
                want, got = outcome(program, args), outcome(function, args)
                where = f"traced at {first}, called at {size}"
                ok = agree(want, got) or admitted(program, args, got)
                assert ok, f"{where}:\n{program}\n{want}\n{got}"
