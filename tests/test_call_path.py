"""From cells to a plan and back: what is let in, who holds what, what is committed and where."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.kernels.machine import engine
from stagekit.kernels.machine.arena import HUGE, Arenas
from stagekit.kernels.machine.entry import (
    CallType,
    Operand,
    Result,
    Tally,
    by_ctypes,
    entry,
    layout,
)
from stagekit.kernels.machine.entry_code import expanded
from stagekit.tensor import Tensor, Variable

pytest.importorskip("llvmlite")

F4 = np.dtype("f4")

# ----- plans written by hand ----------------------------------------------------------------------

PLANS = """
; out = x + y, 8 floats
define i64 @add(ptr %block) {
entry:
  %x = get ptr %block, 0
  %y = get ptr %block, 1
  %out = get ptr %block, 2
  %a = load <8 x float>, ptr %x, align 4
  %b = load <8 x float>, ptr %y, align 4
  %c = fadd <8 x float> %a, %b
  store <8 x float> %c, ptr %out, align 4
  ret i64 0
}

; loss and the next w[10], b of one step for x[32, 10], y[32]; the errors are in the arena
define i64 @step(ptr %block) {
entry:
  %x = get ptr %block, 0
  %y = get ptr %block, 1
  %w = get ptr %block, 2
  %b = get ptr %block, 3
  %loss = get ptr %block, 4
  %next.w = get ptr %block, 5
  %next.b = get ptr %block, 6
  %errors = get ptr %block, 7
  %bias = load float, ptr %b
  %n = add i64 32, 0
  %m = add i64 10, 0
  %sum = alloca float
  %squares = alloca float
  store float 0.0, ptr %squares
  %total = alloca float
  store float 0.0, ptr %total
  for i to %n after entry
  store float %bias, ptr %sum
  %row = getelementptr [10 x float], ptr %x, i64 %i
  for j to %m after i.body
  %x.place = getelementptr float, ptr %row, i64 %j
  %w.place = getelementptr float, ptr %w, i64 %j
  %x.ij = load float, ptr %x.place
  %w.j = load float, ptr %w.place
  %term = fmul float %x.ij, %w.j
  %before = load float, ptr %sum
  %now = fadd float %before, %term
  store float %now, ptr %sum
  end j
  %y.place = getelementptr float, ptr %y, i64 %i
  %y.i = load float, ptr %y.place
  %predicted = load float, ptr %sum
  %error = fsub float %predicted, %y.i
  %error.at = getelementptr float, ptr %errors, i64 %i
  store float %error, ptr %error.at
  %square = fmul float %error, %error
  %squares.before = load float, ptr %squares
  %squares.now = fadd float %squares.before, %square
  store float %squares.now, ptr %squares
  %total.before = load float, ptr %total
  %total.now = fadd float %total.before, %error
  store float %total.now, ptr %total
  end i
  %all = load float, ptr %squares
  %mean = fdiv float %all, 32.0
  store float %mean, ptr %loss
  %slope = load float, ptr %total
  %change = fmul float %slope, 0.0625
  %less = fmul float %change, 0.5
  %b.new = fsub float %bias, %less
  store float %b.new, ptr %next.b
  for k to %m after i.done
  store float 0.0, ptr %sum
  for l to %n after k.body
  %row.l = getelementptr [10 x float], ptr %x, i64 %l
  %x.lk.at = getelementptr float, ptr %row.l, i64 %k
  %x.lk = load float, ptr %x.lk.at
  %e.at = getelementptr float, ptr %errors, i64 %l
  %e = load float, ptr %e.at
  %part = fmul float %x.lk, %e
  %sum.before = load float, ptr %sum
  %sum.now = fadd float %sum.before, %part
  store float %sum.now, ptr %sum
  end l
  %gradient = load float, ptr %sum
  %scaled = fmul float %gradient, 0.03125
  %w.k.at = getelementptr float, ptr %w, i64 %k
  %w.k = load float, ptr %w.k.at
  %w.new = fsub float %w.k, %scaled
  %next.at = getelementptr float, ptr %next.w, i64 %k
  store float %w.new, ptr %next.at
  end k
  ret i64 0
}

; out = v + 1 for `sizes[0]` floats; a check fails where the first is negative
define i64 @increment(ptr %block) {
entry:
  %v = get ptr %block, 0
  %out = get ptr %block, 1
  %n = get i64 %block, 3
  %first = load float, ptr %v
  %bad = fcmp olt float %first, 0.0
  br i1 %bad, label %fail, label %good
good:
  for i to %n after good
  %from = getelementptr float, ptr %v, i64 %i
  %to = getelementptr float, ptr %out, i64 %i
  %now = load float, ptr %from
  %more = fadd float %now, 1.0
  store float %more, ptr %to
  end i
  ret i64 0
fail:
  ret i64 1
}

; fills the arena of `sizes[0]` words with x, calls back, and gives the sum of the words
define i64 @through(ptr %block) {
entry:
  %x = get ptr %block, 0
  %out = get ptr %block, 1
  %arena = get ptr %block, 2
  %n = get i64 %block, 3
  %back = get ptr %block, 4
  %value = load i64, ptr %x
  for i to %n after entry
  put i64 %value, %arena, %i
  end i
  %none = icmp eq ptr %back, null
  br i1 %none, label %sum, label %call
call:
  call void %back()
  br label %sum
sum:
  %total = alloca i64
  store i64 0, ptr %total
  for k to %n after sum
  %word = get i64 %arena, %k
  %before = load i64, ptr %total
  %after = add i64 %before, %word
  store i64 %after, ptr %total
  end k
  %all = load i64, ptr %total
  store i64 %all, ptr %out
  ret i64 0
}
"""


@pytest.fixture(scope="module")
def plans() -> Any:
    return engine.load(engine.compile_ir(expanded(PLANS)))


WAYS = {"native": entry, "ctypes": by_ctypes}


@pytest.fixture(params=WAYS)
def make(request: Any, plans: Any) -> Callable[..., Any]:
    """`make(name, type, ambient)`: the callable of one of the plans, with its tally and stamp."""

    def made(name: str, type_: CallType, ambient: Any = ()) -> Any:
        tally, stamp = Tally(), np.zeros(1, np.int64)
        address = plans.address(name)
        call = WAYS[request.param](plans, address, type_, Arenas(), tally, stamp, ambient)
        return call, tally, stamp

    return made


def native(plans: Any, name: str, type_: CallType, arenas: Arenas | None = None) -> Any:
    stamp = np.zeros(1, np.int64)
    return entry(plans, plans.address(name), type_, arenas or Arenas(), Tally(), stamp)


ADD = CallType((Operand(Tensor, F4, (8,)),) * 2, (Result(F4, (8,)),), single=True)


def tensor(*numbers: float) -> Any:
    return sk.asarray(np.array(numbers, np.float32))


def eight(start: float = 0.0) -> Any:
    return sk.asarray(np.arange(start, start + 8, dtype=np.float32))


def test_this_process_has_the_layout() -> None:
    assert layout() is not None


def test_a_call_gives_a_new_tensor(make: Any) -> None:
    call, tally, stamp = make("add", ADD)
    x, y = eight(), eight(10)
    out = call(x, y)
    assert type(out) is Tensor and out.tolist() == (x + y).tolist()
    assert out._value.flags.owndata and out._value.flags.writeable
    assert gc.is_tracked(out) and weakref.ref(out)() is out
    assert call(out, y).tolist() == (x + y + y).tolist()
    assert tally.calls[0] == stamp[0] == 2


# ----- what is let in -----------------------------------------------------------------------------


class Sub(Tensor):
    __slots__ = ()


def raw(array: Any) -> Any:
    return Tensor(array)


def empty_cell() -> Any:
    return Tensor.__new__(Tensor)


MISSES: dict[str, Callable[[], tuple[Any, ...]]] = {
    "too few": lambda: (eight(),),
    "too many": lambda: (eight(), eight(), eight()),
    "none": lambda: (),
    "a number": lambda: (eight(), 1.0),
    "None": lambda: (None, eight()),
    "an array": lambda: (eight(), eight()._value),
    "a Variable": lambda: (eight(), sk.Variable(eight())),
    "a subclass": lambda: (eight(), Sub(eight()._value)),
    "no value": lambda: (eight(), empty_cell()),
    "float64": lambda: (eight(), raw(np.zeros(8))),
    "int32": lambda: (raw(np.zeros(8, np.int32)), eight()),
    "byte order": lambda: (eight(), raw(np.zeros(8, ">f4"))),
    "size": lambda: (eight(), raw(np.zeros(7, F4))),
    "rank": lambda: (eight(), raw(np.zeros((8, 1), F4))),
    "rank 0": lambda: (eight(), raw(np.zeros((), F4))),
    "strides": lambda: (eight(), raw(np.zeros(16, F4)[::2])),
    "broadcast": lambda: (eight(), raw(np.broadcast_to(np.float32(1), (8,)))),
    "unaligned": lambda: (eight(), raw(np.zeros(33, np.uint8)[1:].view(F4))),
    "a subclass of ndarray": lambda: (eight(), raw_of_subclass()),
}


def raw_of_subclass() -> Any:
    cell = eight()
    cell._value = cell._value.view(np.ma.MaskedArray)
    return cell


@pytest.mark.parametrize("miss", MISSES)
def test_anything_else_is_a_miss(make: Any, miss: str) -> None:
    call, tally, _ = make("add", ADD)
    assert call(*MISSES[miss]()) is NotImplemented
    assert call(eight(), eight()) is not NotImplemented
    assert tally.calls[0] == 1


def test_one_cell_twice_is_a_miss(make: Any) -> None:
    call, _, _ = make("add", ADD)
    x = eight()
    assert call(x, x) is NotImplemented
    many = CallType(tuple(Operand(Tensor, F4, (8,)) for _ in range(20)), (Result(F4, (8,)),))
    call, _, _ = make("add", many)
    cells = [eight(k) for k in range(20)]
    for k in range(20):
        for other in range(k):
            again = [*cells[:k], cells[other], *cells[k + 1 :]]
            assert call(*again) is NotImplemented, (k, other)


def test_read_only_operands_are_taken(make: Any) -> None:
    call, _, _ = make("add", ADD)
    x = eight()
    x._value.flags.writeable = False
    assert call(x, eight()).tolist() == (x + eight()).tolist()


def test_the_order_of_sizes_counts(make: Any) -> None:
    two = CallType((Operand(Tensor, F4, (2, 4)), Operand(Tensor, F4, (8,))), (Result(F4, (4, 2)),))
    call, _, _ = make("add", two)
    assert call(raw(np.ones((4, 2), F4)), eight()) is NotImplemented
    assert call(raw(np.ones((4, 2), F4).T), eight()) is NotImplemented
    (out,) = call(raw(np.ones((2, 4), F4)), eight())
    assert out.shape == (4, 2) and out.tolist() == (eight() + 1).reshape((4, 2)).tolist()


def test_ambient_variables_are_looked_at(make: Any) -> None:
    mode: ContextVar[Any] = ContextVar("mode", default="plain")
    ambient = (mode, ("plain", None))
    call, _, _ = make("add", ADD, [ambient])
    x, y = eight(), eight()
    assert call(x, y) is not NotImplemented
    token = mode.set("other")
    assert call(x, y) is NotImplemented
    mode.set(None)
    assert call(x, y) is not NotImplemented
    mode.reset(token)
    assert call(x, y) is not NotImplemented


# ----- who holds what -----------------------------------------------------------------------------


def counts(*objects: Any) -> list[int]:
    return [sys.getrefcount(x) for x in objects]


STEP = CallType(
    (
        Operand(Tensor, F4, (32, 10)),
        Operand(Tensor, F4, (32,)),
        Operand(Variable, F4, (10,)),
        Operand(Variable, F4, ()),
    ),
    (Result(F4, ()), Result(F4, (10,), 2, True, output=1), Result(F4, (), 3, True, output=2)),
    single=True,
    arena_bytes=128,
)


def increment(n: int = 3, in_place: bool = True, **options: Any) -> CallType:
    written = Result(F4, (n,), 0, in_place)
    return CallType((Operand(Variable, F4, (n,)),), (written,), sizes=(n,), **options)


def test_references_are_counted_right(make: Any) -> None:
    add, _, _ = make("add", ADD)
    more, _, _ = make("increment", increment(in_place=False))
    x, y, v = eight(), eight(), sk.Variable(tensor(1, 2, 3))
    bad = sk.Variable(tensor(-1, 2, 3))
    watched = (x, y, v, bad, x._value, y._value, F4, None, NotImplemented, Tensor, np.ndarray, ())
    add(x, y), add(x, 1), more(v), more(bad)
    before = counts(*watched)
    for _ in range(1000):
        add(x, y)
        add(x, 1)
        more(v)
        more(bad)
    for a, b in zip(before, counts(*watched), strict=True):
        assert abs(a - b) < 50
    assert sys.getrefcount(v._value) == sys.getrefcount(bad._value)


def test_results_die_with_their_last_holder(make: Any) -> None:
    add, _, _ = make("add", ADD)
    out = add(eight(), eight())
    dead = weakref.ref(out), weakref.ref(out._value)
    del out
    assert dead[0]() is None and dead[1]() is None


def test_an_entry_keeps_its_plan(plans: Any) -> None:
    class Plan:
        pass

    plan = Plan()
    arenas = Arenas()
    for way in WAYS.values():
        call = way(plan, plans.address("add"), ADD, arenas, Tally(), np.zeros(1, np.int64))
        kept = weakref.ref(plan)
        del plan
        gc.collect()
        plan = kept()  # type: ignore[assignment]
        assert plan is not None and call(eight(), eight()) is not NotImplemented
    kept = weakref.ref(plan)
    del call, plan
    gc.collect()
    assert kept() is None


MEMORY = """
import sys
sys.path.insert(0, "tests")
import numpy as np
import test_call_path as t
import stagekit as sk

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

plans = t.engine.load(t.engine.compile_ir(t.expanded(t.PLANS)))
def make(name, type_):
    args = plans, plans.address(name), type_, t.Arenas(), t.Tally(), np.zeros(1, np.int64)
    return t.entry(*args)
add, step, more = make("add", t.ADD), make("step", t.STEP), make("increment", t.increment())
fresh = make("increment", t.increment(300000, in_place=False, is_long=True))
x, y, w, b = (sk.asarray(np.ones(s, np.float32)) for s in ((32, 10), (32,), (10,), ()))
w, b, v, bad = map(sk.Variable, (w, b, t.tensor(1, 2, 3), t.tensor(-1, 2, 3)))
big = sk.Variable(sk.zeros(300000))
one, two = t.eight(), t.eight()
for k in range(100000):
    add(one, two), add(one, 1), step(x, y, w, b), more(v), more(bad)
    if k % 500 == 0:
        fresh(big)
    if k == 20000:
        start = rss()
print(rss() - start)
"""


def test_memory_stays_where_it_is() -> None:
    out = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=100, check=False
    )
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) < 300_000


def test_a_result_without_memory_raises_and_loses_nothing(make: Any) -> None:
    first = Result(F4, (8,))
    huge = CallType(ADD.operands, (first, Result(F4, (1 << 55,), output=1)), arena_bytes=128)
    call, tally, _ = make("add", huge)
    x, y = eight(), eight()
    before = counts(x, y, F4)
    for _ in range(100):
        with pytest.raises(MemoryError):
            call(x, y)
    assert all(abs(a - b) < 20 for a, b in zip(before, counts(x, y, F4), strict=True))
    assert tally.calls[0] == 0


# ----- what is committed --------------------------------------------------------------------------


def eager_step(x: Any, y: Any, w: Any, b: Any) -> Any:
    error = x @ w + b - y
    loss = (error * error).mean()
    w.assign(w - 0.03125 * (error @ x))
    b.assign(b - 0.5 * 0.0625 * error.sum())
    return loss


def test_a_step_commits_what_it_writes(make: Any) -> None:
    step, tally, _ = make("step", STEP)
    random = np.random.default_rng(0)
    x, y = (sk.asarray(random.normal(size=s).astype("f4")) for s in ((32, 10), (32,)))
    mine = sk.Variable(sk.zeros(10)), sk.Variable(sk.zeros(()))
    theirs = sk.Variable(sk.zeros(10)), sk.Variable(sk.zeros(()))
    for _ in range(20):
        loss, expected = step(x, y, *mine), eager_step(x, y, *theirs)
        assert type(loss) is Tensor and loss.shape == ()
        np.testing.assert_allclose(loss.numpy(), expected.numpy(), rtol=1e-4)
    np.testing.assert_allclose(mine[0].numpy(), theirs[0].numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mine[1].numpy(), theirs[1].numpy(), rtol=1e-4, atol=1e-6)
    assert tally.calls[0] == 20 and type(mine[0]) is Variable


def test_a_failed_check_commits_nothing(make: Any) -> None:
    more, tally, _ = make("increment", increment())
    bad = sk.Variable(tensor(-1, 2, 3))
    array = bad._value
    for _ in range(3):
        assert more(bad) is NotImplemented
    assert bad._value is array and array.tolist() == [-1, 2, 3]
    assert tally.calls[0] == 0


def test_results_come_as_the_type_says(make: Any) -> None:
    plain = (Result(F4, (8,)),)
    for results, single, count in ((plain, True, None), (plain, False, 1)):
        out = make("add", CallType(ADD.operands, results, single))[0](eight(), eight(1))
        assert (type(out) is Tensor) if count is None else (len(out) == count)
    into = CallType((Operand(Tensor, F4, (8,)), Operand(Tensor, F4, (8,))), (Result(F4, (8,), 1),))
    x, y = eight(), eight(1)
    assert make("add", into)[0](x, y) == ()
    assert y.tolist() == (eight() + eight(1)).tolist() and x.tolist() == eight().tolist()


def test_a_result_may_be_a_view_of_another_or_of_an_operand(make: Any) -> None:
    """The plan knows nothing of views; who is written owns the buffer if it comes first."""
    two = Operand(Tensor, F4, (8,)), Operand(Variable, F4, (8,))
    whole = Result(F4, (8,), 1)
    again, before = Result(F4, (2, 4), view_of=2), Result(F4, (4, 2), view_of=1)
    call, _, _ = make("add", CallType(two, (whole, again, before)))
    x, v = eight(), sk.Variable(eight(1))
    old = v._value = v._value.copy()
    mine, theirs = call(x, v)
    assert v.tolist() == (eight() + eight(1)).tolist() and v._value.base is None
    assert mine._value.base is v._value and mine.shape == (2, 4)
    assert mine.reshape((8,)).tolist() == v.tolist()
    assert theirs.reshape((8,)).tolist() == eight(1).tolist() and theirs._value.base is old
    fresh = v._value
    counted = counts(old, fresh)
    del mine, theirs
    assert counts(old, fresh) == [n - 1 for n in counted]


def test_outputs_are_given_in_the_order_of_the_plan(plans: Any) -> None:
    results = Result(F4, (10,), output=1), Result(F4, (), output=0), Result(F4, (), output=2)
    x, y, w, b = STEP.operands
    step = native(plans, "step", CallType((x, y, w, b), results, arena_bytes=128))
    random = np.random.default_rng(0)
    xs, ys = (sk.asarray(random.normal(size=s).astype("f4")) for s in ((32, 10), (32,)))
    mine = sk.Variable(sk.zeros(10)), sk.Variable(sk.zeros(()))
    w1, loss, b1 = step(xs, ys, *mine)
    expected = eager_step(xs, ys, *mine)
    np.testing.assert_allclose(loss.numpy(), expected.numpy(), rtol=1e-4)
    np.testing.assert_allclose(w1.numpy(), mine[0].numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(b1.numpy(), mine[1].numpy(), rtol=1e-4, atol=1e-6)


# ----- in place -----------------------------------------------------------------------------------


@pytest.fixture
def counter(plans: Any) -> tuple[Any, Any]:
    """A native increment, and a Variable whose buffer it made."""
    more = native(plans, "increment", increment())
    v = sk.Variable(tensor(1, 2, 3))
    more(v)
    return more, v


def test_a_buffer_that_nobody_else_holds_is_written_in_place(counter: Any) -> None:
    more, v = counter
    where = v._value.ctypes.data
    for _ in range(5):
        assert more(v) == ()
        assert v._value.ctypes.data == where
    assert v.tolist() == [7, 8, 9]


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "value": lambda v: v.value,
    "the array": lambda v: v._value,
    "numpy": lambda v: v.numpy(),
    "a view of numpy": lambda v: v.numpy()[1:],
    "np.asarray": np.asarray,
    "dlpack": np.from_dlpack,
    "a capsule": lambda v: v.__dlpack__(max_version=(1, 0)),
    "memoryview": lambda v: memoryview(v.numpy()),
    "a view": lambda v: v[1:],
    "a reshape": lambda v: v.value.reshape((3, 1)),
    "a weak reference": lambda v: weakref.ref(v._value),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_buffer_that_is_held_keeps_its_bits(counter: Any, holder: str) -> None:
    more, v = counter
    held = HOLDERS[holder](v)
    watched = v._value if holder != "a weak reference" else None
    before, where = v.tolist(), v._value.ctypes.data
    if watched is not None:
        address = ctypes.c_float.from_address(where)
        del watched
        more(v)
        assert address.value == before[0]
    else:
        more(v)
    assert v._value.ctypes.data != where
    assert v.tolist() == [n + 1 for n in before]
    del held


def test_another_cell_with_the_same_array_counts(plans: Any) -> None:
    more = native(plans, "increment", increment())
    v, w = sk.Variable(tensor(1, 2, 3)), sk.Variable(tensor(1, 2, 3))
    more(v)
    w._value = v._value
    more(v)
    assert w.tolist() == [2, 3, 4] and v.tolist() == [3, 4, 5]


def test_a_buffer_of_someone_else_is_left_alone(plans: Any) -> None:
    more = native(plans, "increment", increment())
    v = sk.Variable(tensor(1, 2, 3))
    whole = np.ones(5, F4)
    v._value = whole[1:4]
    more(v)
    assert whole.tolist() == [1] * 5 and v.tolist() == [2, 2, 2]
    v._value = np.ones(3, F4)
    v._value.flags.writeable = False
    where = v._value.ctypes.data
    more(v)
    assert v._value.ctypes.data != where and v._value.flags.writeable


def test_nothing_is_in_place_while_other_threads_may_look(plans: Any) -> None:
    type_ = increment(is_long=True)
    more = native(plans, "increment", type_)
    v = sk.Variable(tensor(1, 2, 3))
    more(v)
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        where = v._value.ctypes.data
        more(v)
        assert v._value.ctypes.data != where
    finally:
        go.set()
        thread.join()


# ----- arenas, threads, re-entry ------------------------------------------------------------------

I8 = np.dtype("i8")


def through(n: int, back: int = 0, **options: Any) -> CallType:
    return CallType(
        (Operand(Tensor, I8, ()),),
        (Result(I8, ()),),
        single=True,
        sizes=(n, back),
        arena_bytes=8 * n,
        **options,
    )


def integer(n: int) -> Any:
    return sk.asarray(np.array(n))


@pytest.mark.parametrize("n", [2, 1000, HUGE // 8, HUGE // 8 + 5])
def test_an_arena_is_as_large_as_asked(make: Any, n: int) -> None:
    call, _, _ = make("through", through(n))
    for k in (1, 2):
        assert call(integer(k)).item() == k * n


def test_calls_of_two_sizes_share_arenas(plans: Any) -> None:
    arenas = Arenas()
    calls = [native(plans, "through", through(n), arenas) for n in (10, 1000, 100)]
    for _ in range(3):
        assert [call(integer(2)).item() for call in calls] == [20, 2000, 200]


def test_a_call_within_a_call_has_an_arena_of_its_own(make: Any) -> None:
    found: list[int] = []
    calls: list[Any] = []

    def again() -> None:
        if len(found) < 3:
            found.append(len(found))
            found.append(calls[0](integer(len(found) + 10)).item())

    back = ctypes.CFUNCTYPE(None)(again)
    address = ctypes.cast(back, ctypes.c_void_p).value or 0
    calls.append(make("through", through(50, address, calls_python=True))[0])
    assert calls[0](integer(1)).item() == 50
    assert found == [0, 1, 2, 13 * 50, 12 * 50, 11 * 50]


def test_cells_may_change_while_the_plan_runs(make: Any) -> None:
    """The operands are held; what is committed at the end is this call's."""
    x = integer(7)

    def drop() -> None:
        x._value = np.array(0)
        gc.collect()

    back = ctypes.CFUNCTYPE(None)(drop)
    address = ctypes.cast(back, ctypes.c_void_p).value or 0
    call = make("through", through(50, address, calls_python=True))[0]
    assert call(x).item() == 350 and x.item() == 0


def test_threads_have_arenas_of_their_own(make: Any) -> None:
    n = 5000
    call, _, _ = make("through", through(n, is_long=True))
    wrong: list[Any] = []

    def work(k: int) -> None:
        x = integer(k)
        for _ in range(200):
            out = call(x).item()
            if out != k * n:
                wrong.append((k, out))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_arenas_are_freed_with_their_plan(plans: Any) -> None:
    def rss() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    start = 0
    for k in range(40):
        type_ = through(1 << 20)  # 8 MB
        call = native(plans, "through", type_)
        call(integer(1))
        if k == 5:
            start = rss()
    assert rss() - start < 30_000_000
