"""Why a call was traced, and `Report`, which `explain()` prints: causes, captures, what ran eagerly."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stagekit.source import Location
from stagekit.staging.signature import Call, Leaf, TensorLeaf

# ----- causes -------------------------------------------------------------------------------------


class Cause(NamedTuple):
    """What made a trace necessary: a kind, the path of what changed, old and new, the user's line."""

    kind: str
    path: str
    old: str
    new: str
    line: Location | None

    def __str__(self) -> str:
        if not self.path:
            return self.kind
        return f"{self.kind} of {self.path}: {self.old} -> {self.new}"


def cause_of(
    call: Call,
    leaves: Sequence[Leaf],
    history: Sequence[Any],
    peers: Sequence[Any],
    line: Location | None,
) -> Cause:
    """The difference to the nearest earlier trace: the one with the fewest changes."""
    if not history:
        return Cause("first call", "", "", "", line)
    best: list[Cause] | None = None
    for entry in reversed(history):
        found = differences(entry, call, leaves, line)
        if best is None or len(found) < len(best):
            best = found
        if len(best) <= 1 and best:
            break
    return best[0] if best else Cause("first call", "", "", "", line)


def differences(
    entry: Any, call: Call, leaves: Sequence[Leaf], line: Location | None
) -> list[Cause]:
    """What changed between an earlier trace and this call, arguments before captures."""
    found = []
    old = {leaf.path: leaf for leaf in entry.leaves}
    new = {leaf.path: leaf for leaf in leaves}
    if list(old) != list(new):
        kind = "keyword order" if sorted(old) == sorted(new) else "structure"
        found.append(Cause(kind, "the arguments", _listed(old), _listed(new), line))
    for path in old.keys() & new.keys():
        found += _leaf_difference(old[path], new[path], line)
    found.sort(key=lambda cause: list(new).index(cause.path) if cause.path in new else -1)
    if found:
        return found
    found += changed_guards(entry, call, line)
    found += changed_captures(entry, call, line)
    if found:
        return found
    failed = [str(fact) for fact in entry.facts.known if not _holds(entry, fact, call)]
    if failed:
        return [Cause("size", "a relation", failed[0], "no longer true", line)]
    return []


def _holds(entry: Any, fact: Any, call: Call) -> bool:
    env = entry.pattern.bind(call.shapes, call.numbers)
    if env is None:
        return True
    try:
        return bool(fact.holds({**entry.concrete.env, **env} if entry.concrete else env))
    except (ArithmeticError, KeyError):
        return False


def _listed(leaves: Any) -> str:
    return f"({', '.join(leaves)})"


def _leaf_difference(old: Leaf, new: Leaf, line: Location | None) -> list[Cause]:
    if old.kind != new.kind:
        return [Cause("structure", old.path, _text(old), _text(new), line)]
    if old.kind == "tensor":
        return _tensor_difference(old, new, line)
    if old.kind == "number":
        same = type(old.value) is type(new.value) and repr(old.value) == repr(new.value)
        return [] if same else [Cause("number", old.path, repr(old.value), repr(new.value), line)]
    if old.value.identity == new.value.identity and old.value.type == new.value.type:
        return []
    kind = "string" if new.value.type == "str" else "value"
    if not isinstance(new.value.identity, (str, bool, bytes, tuple, float, type(None))):
        kind = "new instance"
    return [Cause(kind, old.path, old.value.text, new.value.text, line)]


def _tensor_difference(old: Leaf, new: Leaf, line: Location | None) -> list[Cause]:
    a, b = old.value, new.value
    assert isinstance(a, TensorLeaf) and isinstance(b, TensorLeaf)
    for kind, differs in (
        ("dtype", a.dtype != b.dtype),
        ("rank", len(a.shape) != len(b.shape)),
        ("size", a.shape != b.shape),
        ("kind", a.cell != b.cell),
    ):
        if differs:
            return [Cause(kind, old.path, str(a), str(b), line)]
    return []


def _text(leaf: Leaf) -> str:
    return leaf.value.text if leaf.kind == "static" else str(leaf.value)


def changed_guards(entry: Any, call: Call, line: Location | None) -> list[Cause]:
    """The guards of a trace that no longer hold."""
    found = []
    for guard in entry.guards:
        text = guard.changed(call.arguments)
        if text is not None:
            place, _, change = text.partition(": ")
            old, _, new = change.partition(" -> ")
            found.append(Cause("changed", place, old, new, line))
    return found


def changed_captures(entry: Any, call: Call, line: Location | None) -> list[Cause]:
    """The captured tensors whose kind, data type or sizes are not what they were."""
    found = []
    for bound in entry.captures:
        cell = bound.now(call.arguments)
        if cell is None:
            found.append(Cause("changed", f"captured {bound.path}", bound.kind.__name__, "gone", line))
            continue
        before = f"{bound.dtype}{list(bound.shape)}"
        now = f"{cell._value.dtype}{list(cell._value.shape)}"
        if bound.dtype != cell._value.dtype or len(bound.shape) != len(cell._value.shape) or any(
            isinstance(n, int) and n != m
            for n, m in zip(bound.shape, cell._value.shape, strict=False)
        ):
            found.append(Cause("changed", f"captured {bound.path}", before, now, line))
    return found


# ----- the report ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What `explain()` gives: print it, or show it in a notebook."""

    name: str
    entries: tuple[Any, ...]
    eager: tuple[Any, ...]
    cache: Any

    def __str__(self) -> str:
        c = self.cache
        lines = [f"{self.name}: {c.traces} traces, {c.hits} hits, {c.evictions} evicted"]
        for k, entry in enumerate(self.entries, 1):
            lines += _entry_lines(k, entry)
        lines += [f"  eager from now on: {left.why} ({left.line})" for left in self.eager]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _entry_lines(k: int, entry: Any) -> list[str]:
    lines = [f"  trace {k}: {entry.cause} ({entry.cause.line}, {entry.ms:.1f} ms)"]
    symbolic = [n for shape in entry.pattern.shapes for n in shape if isinstance(n, str)]
    symbolic += [n.name for n in entry.pattern.numbers if hasattr(n, "name")]
    if symbolic:
        lines.append(f"    symbolic: {', '.join(dict.fromkeys(symbolic))}")
    lines += [f"    assumes {fact} ({line})" for fact, line in entry.facts.known.items()]
    for bound in entry.captures:
        how = bound.path if bound.path is not None else f"held by identity ({bound.line})"
        lines.append(f"    captures {bound.name}: {how}")
    lines += [
        f"    constant computed by NumPy: shape {c.shape}, {c.nbytes} bytes ({c.line})"
        for c in entry.constants
    ]
    lines += _float64_lines(entry)
    lines += [f"    not staged: {effect.text} ({_place(effect)})" for effect in entry.effects]
    if entry.eager is not None:
        lines.append(f"    eager: {entry.eager.why} ({entry.eager.line})")
    return lines


def _place(effect: Any) -> Location:
    return Location(effect.filename, effect.lineno, effect.function)


def _float64_lines(entry: Any) -> list[str]:
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
