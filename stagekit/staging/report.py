"""Why a call was traced, and `Report`, what `explain()` prints: causes, captures, eager runs."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stagekit.source import Location
from stagekit.staging.concrete import watching
from stagekit.staging.signature import Call, Described, Leaf, Name, Shown, TensorLeaf, leaf_of
from stagekit.staging.trace import Bound, Entry, line_of
from stagekit.symbolic import same

# ----- causes -------------------------------------------------------------------------------------


class Cause(NamedTuple):
    """What made a trace necessary: what changed, where (a path), old and new, the user's line."""

    kind: str
    path: str
    old: str
    new: str
    line: Location | None

    def __str__(self) -> str:
        if not self.path:
            return self.kind
        link = " " if self.kind in ("changed", "relation") else " of "
        return f"{self.kind}{link}{self.path}: {self.old} -> {self.new}"


def cause_of(call: Call, shown: Shown, history: Sequence[Entry], line: Location | None) -> Cause:
    """The difference to the nearest earlier trace: the newest with the fewest changes."""
    found = [differences(entry, call, shown, line) for entry in reversed(history)]
    nearest = min((changes for changes in found if changes), key=len, default=None)
    if nearest is not None:
        return nearest[0]
    kind = "again, for such calls are not staged" if history else "first call"
    return Cause(kind, "", "", "", line)


def differences(entry: Entry, call: Call, shown: Shown, line: Location | None) -> list[Cause]:
    """What changed between an earlier trace and this call, arguments before captures."""
    found = list(_argument_changes(entry, shown, line))
    if not found:
        found = [*_guard_changes(entry, call, line), *_capture_changes(entry, call, line)]
    return found or list(_broken_facts(entry, call, line))


def _argument_changes(entry: Entry, new: Shown, line: Location | None) -> Iterable[Cause]:
    old = entry.shown
    before = {leaf.path: leaf for leaf in old.leaves}
    after = {leaf.path: leaf for leaf in new.leaves}
    if list(before) != list(after) and sorted(before) == sorted(after):
        yield Cause("keyword order", "the arguments", _listed(before), _listed(after), line)
    elif old.structures != new.structures:
        for name in {**old.structures, **new.structures}:
            if old.structures.get(name) != new.structures.get(name):
                texts = [s.texts.get(name, "absent") for s in (old, new)]
                yield Cause("structure", name, texts[0], texts[1], line)
    wanted = dict(zip([leaf.path for leaf in old.tensors], entry.pattern.shapes, strict=True))
    numbers = zip(old.numbers, entry.pattern.numbers, strict=True)
    free = {leaf.path: type(leaf.value) for leaf, wish in numbers if type(wish) is Name}
    for path in after:
        if path in before and type(after[path].value) is not free.get(path):
            yield from _leaf_change(before[path], after[path], wanted.get(path, ()), line)
    if old.places != new.places and len(old.places) == len(new.places):
        yield Cause("identity", "the tensors", _groups(old), _groups(new), line)
    if old.ambient != new.ambient:
        yield Cause("settings", "the call", str(old.ambient), str(new.ambient), line)


def _listed(leaves: Iterable[str]) -> str:
    return f"({', '.join(leaves)})"


def _groups(shown: Shown) -> str:
    """Which tensor arguments are one object: `x is y`."""
    paths = [leaf.path for leaf in shown.tensors]
    pairs = [
        f"{paths[first]} is {path}"
        for path, (k, first) in zip(paths, enumerate(shown.places), strict=True)
        if first != k
    ]
    return ", ".join(pairs) or "all different"


def _leaf_change(
    old: Leaf, new: Leaf, wanted: Sequence[int | str], line: Location | None
) -> Iterable[Cause]:
    if old.kind != new.kind:
        yield Cause("kind", old.path, str(old), str(new), line)
    elif old.kind == "tensor":
        yield from _tensor_change(old, new, wanted, line)
    elif old.kind == "number":
        if not same(old.value, new.value):
            yield Cause("number", old.path, repr(old.value), repr(new.value), line)
    elif old.value != new.value:
        yield Cause(*_static_change(old.path, old.value, new.value), line)


def _static_change(path: str, old: Described, new: Described) -> tuple[str, str, str, str]:
    if old.type != new.type:
        return "kind", path, old.text, new.text
    if old.text != new.text:
        return ("string" if new.type == "str" else "value"), path, old.text, new.text
    return "new instance", path, old.text, f"another {new.text}"


def _tensor_change(
    old: Leaf, new: Leaf, wanted: Sequence[int | str], line: Location | None
) -> Iterable[Cause]:
    a, b = old.value, new.value
    assert isinstance(a, TensorLeaf) and isinstance(b, TensorLeaf)
    for kind, differs in (
        ("dtype", a.dtype != b.dtype),
        ("rank", len(a.shape) != len(b.shape)),
        ("size", any(n != m and type(n) is int for n, m in zip(wanted, b.shape, strict=False))),
        ("kind", a.cell != b.cell),
    ):
        if differs:
            yield Cause(kind, old.path, str(a), str(b), line)
            return


def _guard_changes(entry: Entry, call: Call, line: Location | None) -> Iterable[Cause]:
    for guard in entry.guards:
        text = guard.changed(call.arguments)
        if text is not None:
            place, _, change = text.partition(": ")
            old, _, new = change.partition(" -> ")
            yield Cause("changed", place, old, new, line)


def _capture_changes(entry: Entry, call: Call, line: Location | None) -> Iterable[Cause]:
    for bound in entry.captures:
        cell = bound.now(call.arguments)
        before = str(TensorLeaf(bound.kind.__name__, bound.dtype.name, bound.shape))
        if cell is None:
            now = _found(bound, call)
        else:
            value = cell._value
            now = str(TensorLeaf(bound.kind.__name__, value.dtype.name, value.shape))
            sizes = zip(bound.shape, value.shape, strict=False)
            fixed = any(isinstance(n, int) and n != m for n, m in sizes)
            if bound.dtype == value.dtype and len(bound.shape) == value.ndim and not fixed:
                continue
        yield Cause("changed", f"captured {bound.path}", before, now, line)


def _found(bound: Bound, call: Call) -> str:
    """What stands now where a tensor was captured."""
    try:
        obj = bound.path.read(call.arguments) if bound.path else bound.held
    except (LookupError, AttributeError, ValueError):
        return "nothing"
    return str(leaf_of("", obj))


def _broken_facts(entry: Entry, call: Call, line: Location | None) -> Iterable[Cause]:
    env = entry.pattern.bind(call.shapes, call.numbers)
    if env is None:
        return
    for bound in entry.captures:
        cell = bound.now(call.arguments)
        for name, size in zip(
            bound.shape, cell._value.shape if cell is not None else (), strict=False
        ):
            if isinstance(name, str):
                env.setdefault(name, size)
    for fact, where in entry.facts.known.items():
        try:
            holds = fact.holds(env)
        except (ArithmeticError, KeyError):
            holds = False
        if not holds:
            yield Cause("relation", f"{fact} ({where})", "true", "false", line)


# ----- the report ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What `explain()` gives: print it, or show it in a notebook."""

    name: str
    entries: tuple[Entry, ...]
    eager: tuple[Any, ...]
    cache: Any

    def __str__(self) -> str:
        c = self.cache
        lines = [f"{self.name}: {c.traces} traces, {c.hits} hits, {c.evictions} evicted"]
        for k, entry in enumerate(self.entries, 1):
            lines += _entry_lines(k, entry)
        lines += [f"  eager from now on: {left.why}{_at(left.line)}" for left in self.eager]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _at(line: Location | None) -> str:
    return f" ({line})" if line else ""


def _entry_lines(k: int, entry: Entry) -> list[str]:
    lines = [f"  trace {k}: {entry.cause} ({entry.cause.line}, {entry.ms:.1f} ms)"]
    symbolic = [n for shape in entry.pattern.shapes for n in shape if isinstance(n, str)]
    symbolic += [n.name for n in entry.pattern.numbers if type(n) is Name]
    if symbolic:
        lines.append(f"    symbolic: {', '.join(dict.fromkeys(symbolic))}")
    lines += [f"    assumes {fact} ({line})" for fact, line in entry.facts.known.items()]
    for bound in entry.captures:
        held = f"{bound.name}, held by identity" if bound.path is None else str(bound.path)
        lines.append(f"    captures {held} ({bound.line})")
    lines += [
        f"    constant computed by NumPy: shape {c.shape}, {c.nbytes} bytes ({c.line})"
        for c in entry.constants
    ]
    lines += _float64_lines(entry)
    lines += _derivative_lines(entry)
    lines += [f"    not staged: {effect.text} ({line_of(effect)})" for effect in entry.effects]
    if entry.eager is not None and not entry.effects:
        lines.append(f"    eager: {entry.eager.why}{_at(entry.eager.line)}")
    return lines


def _derivative_lines(entry: Entry) -> list[str]:
    """The variants made because a tape, or a forward derivative, watches some inputs."""
    if entry.concrete is None:
        return []
    return [
        f"    derivative {k}: {watching(v.mode, v.watched)} ({v.line}, {v.ms:.1f} ms)"
        for k, v in enumerate(entry.concrete.derivatives, 1)
    ]


def _float64_lines(entry: Entry) -> list[str]:
    """Where float32 widened to float64."""
    if entry.concrete is None:
        return []
    graph = entry.concrete.graph
    return [
        f"    float64: {node.inputs[0].type} widens to {node.type} ({graph.line(node)})"
        for node in graph.nodes
        if node.op is not None
        and node.op.name == "astype"
        and node.type.dtype.name == "float64"
        and node.inputs[0].type.dtype.name == "float32"
    ]
