"""The traces of one function: families by key, newest first, least recently used dropped.

Beside them the direct ways of late calls: functions that go straight to machine code.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stagekit.kernels.machine.entry import Tally
from stagekit.staging.interpreter import Left
from stagekit.staging.signature import Call, Pattern, weak_parts
from stagekit.staging.trace import Entry

_LOST_LIMIT = 3
_WAYS_LIMIT = 8
_REPEATABLE = frozenset(("print", "input", "open", "time", "random", "np.random", "iterator"))


class CacheInfo(NamedTuple):
    """As `functools.lru_cache`'s, with the number of paths recorded and signatures dropped."""

    hits: int
    misses: int
    maxsize: int
    currsize: int
    traces: int
    evictions: int


@dataclass(eq=False)
class Family:
    """The traces for one key, every pattern seen, and what must stay plain.

    `entries` is replaced, never changed: another thread may be walking it. Entries that run eagerly
    come last; after some of them whatever no entry fits runs eagerly too, for the reason `eager`.
    """

    entries: tuple[Entry, ...] = ()
    seen: list[Pattern] = field(default_factory=list)
    fixed: set[str] = field(default_factory=set)
    captured: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)  # sizes by path
    lost: int = 0
    eager: Left | None = None
    watchers: list[Any] = field(default_factory=list)
    since: int = 0  # the number of the last hit before there was any entry

    @property
    def last(self) -> int:
        """The number of the last hit."""
        return max((int(entry.stamp[0]) for entry in self.entries), default=self.since)

    def sizes(
        self, dynamic: str | bool, name: str, shape: tuple[int, ...]
    ) -> tuple[int | str, ...]:
        """The sizes of a captured tensor: symbolic from the second one seen."""
        known = self.captured.setdefault(name, [])
        earlier = [s for s in known if len(s) == len(shape)]
        if shape not in known:
            known.append(shape)
        if dynamic is False:
            return shape
        return tuple(
            f"{name}_{axis}"
            if any(s[axis] != n for s in earlier) and f"{name}_{axis}" not in self.fixed
            else n
            for axis, n in enumerate(shape)
        )

    def add(self, entry: Entry) -> None:
        """Remember an entry, unless what it stands for will not come again."""
        if entry.eager is None:
            self.entries = (entry, *self.entries)
            return
        self.lost += 1
        if self.lost >= _LOST_LIMIT:
            self.eager = self.eager or entry.eager
        if all(effect.kind in _REPEATABLE for effect in entry.effects):
            self.entries = (*self.entries, entry)

    def used(self, entry: Entry) -> None:
        """Move an entry to the front."""
        if self.entries[0] is not entry and entry.eager is None:
            self.entries = (entry, *(e for e in self.entries if e is not entry))


class Way(NamedTuple):
    """The direct way for an entry and calls of such sizes and numbers; None where there is none."""

    entry: Entry
    sizes: Any
    call: Callable[..., Any] | None


class Cache:
    """Families by key, at most `limit` entries in all.

    `direct` are the functions of the ways, the latest first; they count their hits themselves.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.families: dict[Any, Family] = {}
        self.lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Forget every trace and all counts."""
        with self.lock:
            self.families.clear()
            self.history: list[Entry] = []
            self.misses = self.traces = self.evictions = 0
            self.hits = Tally()
            self.ways: list[Way] = []
            self.direct: tuple[Callable[..., Any], ...] = ()

    def used(self, family: Family, entry: Entry) -> None:
        """Note a hit."""
        self.hits.note(entry.stamp)
        family.used(entry)

    def way(self, entry: Entry, sizes: Any) -> Way | None:
        """What is known of the direct way for an entry and such sizes."""
        known = (way for way in self.ways if way.entry is entry and way.sizes == sizes)
        return next(known, None)

    def add_way(self, way: Way) -> None:
        """Remember a direct way, instead of the oldest one if there are many."""
        with self.lock:
            self._keep_ways([way, *self.ways[: _WAYS_LIMIT - 1]])

    def _keep_ways(self, ways: list[Way]) -> None:
        self.ways = ways
        self.direct = tuple(way.call for way in ways if way.call is not None)

    def add(self, call: Call, family: Family, entry: Entry) -> bool:
        """Remember a trace; False where another thread has made one for such calls meanwhile."""
        with self.lock:
            known = self.families.get(call.key)
            if known is not None and _fits(known, call):
                return False
            if known is None:
                self.families[call.key] = family
                family.watchers = self._watchers(call.key)
                family.since = int(self.hits.calls[0])
            entry.stamp[:] = self.hits.calls
            self.traces += 1
            self.history.append(entry)
            del self.history[: -2 * self.limit]
            (known or family).seen.append(entry.pattern)
            (known or family).add(entry)
            self._evict()
            return True

    def _watchers(self, key: Any) -> list[weakref.ref[Any]]:
        """References that drop the family of `key` when an object in it dies."""
        families = weakref.ref(self)

        def forget(_: Any) -> None:
            cache = families()
            family = None if cache is None else cache.families.pop(key, None)
            if cache is not None and family is not None:
                with cache.lock:
                    cache._keep_ways([w for w in cache.ways if w.entry not in family.entries])

        return [weakref.ref(part(), forget) for part in weak_parts(key) if part() is not None]

    def _evict(self) -> None:
        """Drop the least recently used entry beyond the limit."""
        while sum(max(1, len(f.entries)) for f in list(self.families.values())) > self.limit:
            key, oldest = min(self.families.items(), key=lambda item: item[1].last)
            dropped = oldest.entries[-1:]
            oldest.entries = oldest.entries[:-1]
            if not oldest.entries:
                del self.families[key]
            self._keep_ways([way for way in self.ways if way.entry not in dropped])
            self.evictions += 1

    def size(self) -> int:
        """The number of entries."""
        return sum(len(family.entries) for family in list(self.families.values()))

    def info(self) -> CacheInfo:
        """The counts so far."""
        hits = int(self.hits.calls[0])
        return CacheInfo(
            hits, self.misses, self.limit, self.size(), self.traces, self.evictions
        )


def _fits(family: Family, call: Call) -> bool:
    return any(entry.match(call) is not None for entry in family.entries)
