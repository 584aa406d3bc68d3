"""The compile cache on disk: object code by the hash of all that it was made from.

An entry is one file: a dict as JSON and object code, under a checksum; there is no pickle. Whoever
can write the folder can run code in this process, so a folder that is not the user's alone is
refused. All else that can go wrong (a full disk, a damaged file, a writer or builder that was
killed) costs a compilation, and never an error. `docs/cache.md` says it at length.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Any, NamedTuple

from stagekit.errors import StagekitError, StagekitWarning
from stagekit.settings import config, log
from stagekit.source import stack_level

if sys.platform != "win32":
    import fcntl

MAX_BYTES = 256 << 20

_MAGIC = b"stagekit cache 1\n"
_HEAD = len(_MAGIC) + 32  # the checksum follows
_NAME = re.compile(r"[0-9a-f]{64}\.(entry|lock)|[0-9a-f]{16}\.tmp")

_PATIENCE = 10.0  # seconds that a process waits in vain for others, in all
_ABANDONED = 3600.0  # seconds after which a temporary file or a lock is a dead process's
_TOUCHED = 60.0  # a hit within so many seconds of the last one is not recorded

Entry = tuple[dict[str, Any], bytes]


def key(*parts: str | bytes) -> str:
    """The name of what is made from `parts`: the graph's text, the toolchain, the CPU, versions.

    Each part counts with its length, so no two lists of parts run together to the same key.

    >>> key("ab", "c") == key(b"ab", b"c"), key("ab", "c") == key("a", "bc")
    (True, False)
    """
    digest = sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def disk() -> Cache | None:
    """The cache in the folder `sk.config.cache_dir`; None where it is off.

    It is also None, with one warning that says why, where the folder is not the user's alone or
    cannot be made.
    """
    if _off() is not None:
        return None
    folder = os.path.expanduser(config.cache_dir)
    cache = _caches.setdefault(folder, Cache(folder, MAX_BYTES))
    try:
        with cache._opened(make=True):
            return cache
    except (StagekitError, OSError) as error:
        cache._tell(error)
    return None


def report() -> str:
    """What `python -m stagekit cache --info` prints: the folder, its state and what it holds."""
    off = _off()
    if off is not None:
        return f"state    off: {off}"
    cache = Cache(os.path.expanduser(config.cache_dir), MAX_BYTES)
    try:
        info = cache.info()
    except (StagekitError, OSError) as error:
        return f"state    not used: {_trouble(cache.folder, error)}\nfix      {_CURE}"
    lines = [
        f"folder   {cache.folder}",
        "state    on",
        f"entries  {info.entries}",
        f"bytes    {info.bytes} of at most {info.max_bytes}",
    ]
    if info.oldest is not None and info.newest is not None:
        lines += [f"oldest   used {_date(info.oldest)}", f"newest   used {_date(info.newest)}"]
    return "\n".join(lines)


def clear() -> str:
    """Empty the configured folder, as `python -m stagekit cache --clear` does; says what it did.

    Raises StagekitError where the cache is off or its folder is refused.
    """
    off = _off()
    if off is not None:
        raise StagekitError(f"the compile cache is off: {off}")
    cache = Cache(os.path.expanduser(config.cache_dir), MAX_BYTES)
    return f"removed {cache.clear()} entries from {cache.folder}"


class Info(NamedTuple):
    """What a cache holds. `oldest` and `newest` are times of last use, in seconds of the epoch."""

    entries: int
    bytes: int
    max_bytes: int
    oldest: float | None
    newest: float | None


class Cache:
    """The entries in one folder, together smaller than `max_bytes`.

    Each operation opens the folder anew, checks whose it is, and reaches files through that
    descriptor only: what was checked is what is used, even if the path is made to lead elsewhere.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = Cache(folder, max_bytes=1 << 20)
    ...     cache.put(key("graph", "cpu"), {"name": "f"}, b"code")
    ...     cache.get(key("graph", "cpu")), cache.info().entries, cache.clear()
    (({'name': 'f'}, b'code'), 1, 1)
    """

    def __init__(self, folder: str, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._patience = _PATIENCE
        self._added = max_bytes  # bytes written since the last look at the folder: look soon
        self._told: set[str] = set()

    def get(self, key: str) -> Entry | None:
        """The entry that was put under `key`, with its dict as JSON gives it back, or None.

        A damaged entry is removed and counts as none.
        """
        found = self._load(key)
        log("cache", f"{'miss' if found is None else 'hit'} {key}")
        return found

    def put(self, key: str, meta: dict[str, Any], code: bytes) -> None:
        """Store an entry, whole or not at all. One larger than half the cache is not stored.

        Raises TypeError where `meta` cannot be JSON; trouble with the disk is a warning.
        """
        data = _encode(key, meta, code)
        if len(data) > self.max_bytes // 2:
            log("cache", f"too large {key} ({len(data)} bytes)")
            return
        try:
            with self._opened(make=True) as at:
                self._make_room(at, len(data))
                _write(at, f"{key}.entry", data)
            log("cache", f"store {key} ({len(data)} bytes)")
        except FileNotFoundError:
            log("cache", f"cleared while storing {key}")
        except (StagekitError, OSError) as error:
            self._tell(error)

    @contextmanager
    def building(self, key: str) -> Iterator[Entry | None]:
        """`with cache.building(key) as found:` gives the entry, or None: you build and put it.

        Of several processes or threads that ask at once, one builds and the others wait for its
        entry. They do not wait for a dead one, whose lock the kernel frees, nor long for a slow
        one: a process waits in vain some seconds in all, then it builds for itself.
        """
        found, lock = self.get(key), None
        if found is None:
            found, lock = self._wait(key)
        try:
            yield found
        finally:
            if lock is not None:
                self._release(f"{key}.lock", lock)

    def info(self) -> Info:
        """How much the folder holds. Raises StagekitError where it is refused, OSError."""
        files: list[_File] = []
        with suppress(FileNotFoundError), self._opened() as at:
            files = [file for file in _files(at) if file.is_entry]
        size, used = sum(file.bytes for file in files), [file.used for file in files]
        oldest, newest = min(used, default=None), max(used, default=None)
        return Info(len(files), size, self.max_bytes, oldest, newest)

    def clear(self) -> int:
        """Remove all that a cache keeps in the folder, and nothing else; gives how many entries.

        Raises StagekitError where the folder is refused, OSError.
        """
        entries = 0
        with suppress(FileNotFoundError), self._opened() as at:
            for file in _files(at):
                _remove(at, file.name)
                entries += file.is_entry
        return entries

    @contextmanager
    def _opened(self, make: bool = False) -> Iterator[int]:
        """A descriptor of the folder, which is the user's alone to write."""
        if self.folder.startswith("~"):
            raise StagekitError(f"{self.folder}: no home folder is known", _CURE)
        if make:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
        at = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fault = _fault(os.fstat(at))
            if fault is not None:
                raise StagekitError(f"{self.folder} {fault}, and it holds machine code", _CURE)
            yield at
        finally:
            os.close(at)

    def _tell(self, error: StagekitError | OSError) -> None:
        """Warn of a trouble with the folder, of each once."""
        text = _trouble(self.folder, error)
        if text not in self._told:
            self._told.add(text)
            text = f"compiled code is not kept on disk: {text}\n  fix: {_CURE}"
            warnings.warn(text, StagekitWarning, stacklevel=stack_level())

    def _load(self, key: str) -> Entry | None:
        name = f"{key}.entry"
        try:
            with self._opened() as at:
                data = _read(at, name, self.max_bytes)
                found = None if data is None else _decode(key, data)
                if found is None:
                    log("cache", f"damaged {key}")
                    _remove(at, name)
                return found
        except FileNotFoundError:
            return None
        except (StagekitError, OSError) as error:
            self._tell(error)
            return None

    def _wait(self, key: str) -> tuple[Entry | None, int | None]:
        """The entry that another has finished, or the lock on building it, or neither."""
        waited, pause = 0.0, 0.001
        while True:
            try:
                with self._opened(make=True) as at:
                    lock = _take(at, f"{key}.lock")
            except (StagekitError, OSError) as error:
                self._tell(error)
                return None, None
            found = self._load(key)  # after the lock: its last holder may have finished just now
            if found is not None or lock is not None or waited > self._patience:
                break
            begun = time.monotonic()
            time.sleep(pause)
            waited += time.monotonic() - begun
            pause = min(2 * pause, 0.02)
        if found is None:
            self._patience -= waited
        else:
            log("cache", f"hit {key} after {waited:.3f} s")
        return found, lock

    def _release(self, name: str, lock: int) -> None:
        """Give a lock up. It is the file's removal that does it, since a lock counts only while its
        file is there: a child forked meanwhile may have the descriptor, too, and keep it open."""
        with suppress(StagekitError, OSError), self._opened() as at:
            os.unlink(name, dir_fd=at)
        os.close(lock)

    def _make_room(self, at: int, size: int) -> None:
        """Remove what was not used for longest, so that `size` more bytes stay below the cap.

        A process looks at the folder each time it has written a 64th of the cap, and leaves an
        eighth free: that many bytes 8 processes can write between their looks.
        """
        self._added += size
        if self._added <= self.max_bytes // 64:
            return
        self._added = size
        files, now = _files(at), time.time()
        total = size + sum(file.bytes for file in files)
        for file in files:
            if not file.is_entry and abs(now - file.used) > _ABANDONED:
                _remove(at, file.name)
                total -= file.bytes
        if total <= self.max_bytes - self.max_bytes // 8:
            return
        for file in sorted((file for file in files if file.is_entry), key=lambda file: file.used):
            if total <= self.max_bytes - self.max_bytes // 4:
                break
            _remove(at, file.name)
            total -= file.bytes
            log("cache", f"evict {file.name.partition('.')[0]} ({file.bytes} bytes)")


_caches: dict[str, Cache] = {}
_CURE = 'set STAGEKIT_CACHE_DIR to a folder that only you can write (chmod 700), or to "off"'


def _off() -> str | None:
    """Why there is no cache, None if there is to be one."""
    if os.name != "posix":
        return "this system does not say who can write a folder"
    if config.cache_dir in ("", "off"):
        return f'STAGEKIT_CACHE_DIR or sk.config.cache_dir is "{config.cache_dir}"'
    return None


def _fault(status: os.stat_result) -> str | None:
    """Why a folder or file is not the user's alone to write, None if it is."""
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to {os.geteuid()}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others"
    return None


def _trouble(folder: str, error: StagekitError | OSError) -> str:
    if isinstance(error, StagekitError):
        return error.message
    return f"{folder}: {error.strerror or error}"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


# ----- entries ------------------------------------------------------------------------------------


def _encode(key: str, meta: dict[str, Any], code: bytes) -> bytes:
    text = json.dumps(meta, separators=(",", ":")).encode()
    body = len(text).to_bytes(8, "little") + text + code
    return _MAGIC + sha256(key.encode() + body).digest() + body


def _decode(key: str, data: bytes) -> Entry | None:
    """The entry in the bytes of a file, None unless they are just what was written for `key`."""
    body = data[_HEAD:]
    if data[:_HEAD] != _MAGIC + sha256(key.encode() + body).digest():
        return None
    length = int.from_bytes(body[:8], "little")
    text, code = body[8 : 8 + length], body[8 + length :]
    if len(text) != length:
        return None
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return (meta, code) if isinstance(meta, dict) else None


# ----- files of an open folder --------------------------------------------------------------------


class _File(NamedTuple):
    """A file of the cache's: an entry, a lock or a temporary file."""

    name: str
    bytes: int
    used: float

    @property
    def is_entry(self) -> bool:
        return self.name.endswith(".entry")


def _files(at: int) -> list[_File]:
    """The files in a folder that bear a name of the cache's."""
    found = []
    with os.scandir(at) as files:
        for file in files:
            if _NAME.fullmatch(file.name):
                with suppress(FileNotFoundError):  # removed by another process
                    status = file.stat(follow_symlinks=False)
                    found.append(_File(file.name, status.st_size, status.st_mtime))
    return found


def _remove(at: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=at)


def _read(at: int, name: str, limit: int) -> bytes | None:
    """The bytes of a file, None if it is not a plain file of the user's; counts as a use."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(name, flags, dir_fd=at), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or _fault(status):
            return None
        if abs(time.time() - status.st_mtime) > _TOUCHED:
            with suppress(OSError):  # a folder that can only be read
                os.utime(file.fileno())
        return file.read(limit)


def _write(at: int, name: str, data: bytes) -> None:
    """Make a file with these bytes under another name, then give it its own: readers see all of it.

    It is not synced. After a power cut the name may stand for fewer bytes, which fail the checksum.
    """
    temporary = f"{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600, dir_fd=at), "wb") as file:
            file.write(data)
        os.replace(temporary, name, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        _remove(at, temporary)
        raise


def _take(at: int, name: str) -> int | None:
    """A descriptor that holds the lock on a file of this name, None while another holds it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(name, flags, 0o600, dir_fd=at)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last holder may have removed the file since it was opened; the next makes a new one.
        if os.path.samestat(os.fstat(lock), os.stat(name, dir_fd=at, follow_symlinks=False)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None
