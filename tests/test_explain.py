"""`explain()`: for each cause of a trace the path, old -> new, the user's line and milliseconds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stagekit as sk

Golden = Callable[[str, str], None]
RATE = 0.5


class Model:
    def __init__(self, scale: Any = 2.0) -> None:
        self.scale = scale

    @sk.function
    def forward(self, x: Any) -> Any:
        return x * self.scale


def halved(x: Any) -> Any:
    return x / 2


def doubled(x: Any) -> Any:
    return x * 2


class Settings:
    pass


def text_of(f: Any) -> str:
    """The report with milliseconds as N."""
    return re.sub(r"\d+\.\d ms", "N ms", str(f.explain()))


def dtype() -> Any:
    f = sk.function(lambda x: x * 2, name="f")
    f(sk.ones(3))
    f(sk.ones(3, dtype=sk.float64))
    f(np.ones(3, np.int32))
    return f


def rank() -> Any:
    f = sk.function(lambda batch: sk.sum(batch["x"]), name="f")
    f({"x": sk.ones(3)})
    f({"x": sk.ones((3, 4))})
    return f


def size() -> Any:
    f = sk.function(lambda x, y: sk.sum(x) * sk.sum(y) / x.shape[0], name="f")
    f(sk.ones(3), sk.ones(2))
    f(sk.ones(4), sk.ones(2))
    f(sk.ones(5), sk.ones(2))
    return f


def relation() -> Any:
    f = sk.function(lambda x, y: x + y, name="f")
    f(sk.ones(3), sk.ones(3))
    f(sk.ones(4), sk.ones(4))
    f(sk.ones(4), sk.ones(1))
    return f


def structure() -> Any:
    f = sk.function(lambda x, mask=None: x * 2, name="f")
    f(sk.ones(3))
    f(sk.ones(3), sk.ones(3))
    f(sk.ones(3), {"a": sk.ones(3), "b": (sk.ones(3), None)})
    f([sk.ones(3)])
    return f


def number() -> Any:
    f = sk.function(lambda x, rate, k: x * rate * k, name="f")
    f(sk.ones(3), 0.1, 2)
    f(sk.ones(3), 0.2, 2)
    f(sk.ones(3), 0.3, 2)
    f(sk.ones(3), 0.3, 3)
    f(sk.ones(3), 1, 3)
    return f


def string() -> Any:
    f = sk.function(lambda x, mode, flag=False: x * 2, name="f")
    f(sk.ones(3), "train")
    f(sk.ones(3), "test")
    f(sk.ones(3), "test", True)
    f(sk.ones(3), None)
    return f


def keyword_order() -> Any:
    f = sk.function(lambda **weights: sum(weights.values()), name="f")
    f(a=sk.ones(3), b=sk.ones(3))
    f(b=sk.ones(3), a=sk.ones(3))
    return f


def new_instance() -> Any:
    a, b = Model(), Model()
    Model.forward.cache_clear()
    a.forward(sk.ones(3))
    b.forward(sk.ones(3))
    return Model.forward


def same_object() -> Any:
    f = sk.function(lambda x, y, z: x + y + z, name="f")
    x = sk.ones(3)
    f(x, sk.ones(3), sk.ones(3))
    f(x, sk.ones(3), x)
    return f


def changed_global() -> Any:
    global RATE
    RATE = 0.5
    f = sk.function(lambda x: x * RATE, name="f")
    f(sk.ones(3))
    RATE = 0.1
    f(sk.ones(3))
    return f


def changed_closure() -> Any:
    rate = 0.5
    f = sk.function(lambda x: x * rate, name="f")
    f(sk.ones(3))
    rate = 0.1
    f(sk.ones(3))
    return f


def changed_attribute() -> Any:
    settings: Any = Settings()
    settings.rate, settings.table = 0.5, {"k": 1, "mode": "a"}
    f = sk.function(lambda x: x * settings.rate * settings.table["k"], name="f")
    f(sk.ones(3))
    settings.rate = 0.1
    f(sk.ones(3))
    settings.table["k"] = 2
    f(sk.ones(3))
    return f


def changed_capture() -> Any:
    w: Any = sk.ones(3)
    f = sk.function(lambda x: x * w, name="f")
    f(sk.ones(3))
    w = sk.ones(3, dtype=sk.float64)
    f(sk.ones(3))
    w = sk.Variable(sk.ones(3))
    f(sk.ones(3))
    w = sk.ones((3, 3))
    f(sk.ones(3))
    return f


def changed_helper() -> Any:
    helper = halved
    f = sk.function(lambda x: helper(x), name="f")
    f(sk.ones(3))
    helper = lambda x: x * 3
    f(sk.ones(3))
    return f


def tape() -> Any:
    f = sk.function(lambda x, w: sk.sum(x * w), name="f")
    x, w = sk.ones(3), sk.Variable(sk.ones(3))
    f(x, w)
    with sk.GradientTape() as tape:
        y = f(x, w)
    tape.gradient(y, w)
    sk.grad(lambda x: f(x, w))(x)
    sk.jvp(lambda x: f(x, w), (x,), (x,))
    return f


def eager() -> Any:
    f = sk.function(lambda x: x if x.sum() > 0 else -x, name="f")
    f(sk.ones(3))
    f(sk.ones(4))
    f(sk.ones((3, 3)))
    f(sk.ones((3, 3)))
    return f


def effects() -> Any:
    log: list[Any] = []

    def f(x: Any) -> Any:
        log.append(1)
        return x * 2

    staged = sk.function(f)
    for _ in range(4):
        staged(sk.ones(3))
    return staged


def all_that_a_trace_relies_on() -> Any:
    w, hidden = sk.ones(3), sk.ones(3)
    keep = hidden

    def f(x: Any, k: int) -> Any:
        y = x * w * np.arange(3, dtype=np.float64)
        return sk.stack([y] * k) if x.shape[0] > 2 else y

    staged = sk.function(f)
    staged(keep, 2)
    staged(keep, 3)
    return staged


def evicted() -> Any:
    f = sk.function(lambda x, mode: x * 2, max_traces=2, name="f")
    for mode in "abca":
        f(sk.ones(3), mode)
    return f


CAUSES = [
    dtype, rank, size, relation, structure, number, string, keyword_order, new_instance,
    same_object, changed_global, changed_closure, changed_attribute, changed_capture,
    changed_helper, tape, eager, effects, all_that_a_trace_relies_on, evicted,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::stagekit.errors.StagekitWarning")
@pytest.mark.parametrize("case", CAUSES, ids=lambda f: f.__name__)
def test_the_text_for_each_cause(case: Callable[[], Any], golden: Golden) -> None:
    golden(f"explain_{case.__name__}", text_of(case()))


def test_a_device_that_is_not_there_is_refused_by_name(golden: Golden) -> None:
    with pytest.raises(sk.DeviceError) as spec:
        sk.TensorSpec((3,), device="cuda:0")
    with pytest.raises(sk.DeviceError) as option:
        sk.function(lambda x: x, device="cuda:0")
    golden("explain_device", f"{spec.value}\n{option.value}")


def test_every_cause_names_path_change_line_and_time() -> None:
    line = re.compile(r"trace \d+: .+ \(test_explain.py:\d+ in \w+, \d+\.\d ms\)")
    f = number()
    for text in str(f.explain()).splitlines():
        if "trace " in text and " traces" not in text:
            assert line.search(text), text
    assert re.search(r"number of rate: 0\.1 -> 0\.2 \(test_explain.py:\d+ in number", text_of(f))


def test_the_report_is_shown_in_notebooks() -> None:
    f = structure()
    page = f.explain()._repr_html_()
    assert page.startswith("<pre>") and "-&gt;" in page and repr(f.explain()) == str(f.explain())


def test_the_cause_is_against_the_nearest_earlier_trace() -> None:
    f = sk.function(lambda x, mode: x * 2, name="f")
    f(sk.ones(3), "a")
    f(sk.ones((2, 2)), "b")
    f(sk.ones((2, 2), dtype=sk.float64), "b")
    f(sk.ones(3), "c")
    assert "dtype of x: f32[2,2] -> f64[2,2]" in str(f.explain())
    assert "string of mode: 'a' -> 'c'" in str(f.explain())


def test_float64_that_widens_float32_is_listed() -> None:
    f = sk.function(lambda x, y: x * y, name="f")
    f(sk.ones(3), sk.ones(3, dtype=sk.float64))
    assert re.search(r"float64: f32\[3\] widens to f64\[3\] \(test_explain.py", str(f.explain()))
