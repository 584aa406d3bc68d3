"""The compile cache on disk: what it gives back, refuses, forgets, and survives."""

from __future__ import annotations

import errno
import os
import random
import resource
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import stagekit as sk
from stagekit.__main__ import main
from stagekit.kernels.machine import cache as module
from stagekit.kernels.machine.cache import Cache, disk, key
from stagekit.settings import Config

K = key("graph", "cpu")
META = {"name": "f", "sizes": [1, 2]}
CODE = bytes(range(256))
HOURS_AGO = time.time() - 7200


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = sk.config.cache_dir, sk.config.log
    yield
    sk.config.cache_dir, sk.config.log = before


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"), 1 << 20)


def file_of(cache: Cache, key: str = K) -> Path:
    return Path(cache.folder) / f"{key}.entry"


def names(cache: Cache) -> list[str]:
    return sorted(os.listdir(cache.folder))


def total(cache: Cache) -> int:
    return sum(file.stat().st_size for file in Path(cache.folder).iterdir())


def used(cache: Cache, key: str, seconds: float) -> None:
    os.utime(file_of(cache, key), (seconds, seconds))


# ----- entries ------------------------------------------------------------------------------------


def test_a_key_is_a_hash_of_parts_and_their_lengths() -> None:
    keys = [key("ab", "c"), key("a", "bc"), key("abc"), key("abc", ""), key(), key("\udc80")]
    assert len(set(keys)) == len(keys)
    assert key("ä") == key("ä".encode()) == sha256(b"\2" + b"\0" * 7 + "ä".encode()).hexdigest()


def test_what_was_put_is_got_by_every_process(cache: Cache) -> None:
    assert cache.get(K) is None
    assert not os.path.exists(cache.folder)  # made at the first need
    cache.put(K, META, CODE)
    assert cache.get(K) == Cache(cache.folder, 1 << 20).get(K) == (META, CODE)
    assert cache.get(key("other")) is None
    cache.put(K, {}, b"")
    assert cache.get(K) == ({}, b"")
    assert names(cache) == [f"{K}.entry"]
    with pytest.raises(TypeError):
        cache.put(K, {"x": object()}, CODE)


def test_altered_bits_never_give_an_entry(cache: Cache, full: bool) -> None:
    draw = random.Random(1)
    cache.put(K, META, CODE)
    whole = file_of(cache).read_bytes()
    for _ in range(4000 if full else 300):
        altered = bytearray(whole)
        for _ in range(draw.choice([1, 1, 1, 2, 20])):
            altered[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        if altered == whole:
            continue
        file_of(cache).write_bytes(altered)
        assert cache.get(K) is None
        assert not file_of(cache).exists()
    file_of(cache).write_bytes(whole)
    assert cache.get(K) == (META, CODE)


def test_other_files_are_no_entries(cache: Cache) -> None:
    cache.put(K, META, CODE)
    whole = file_of(cache).read_bytes()
    wrong = [whole[:n] for n in range(len(whole))] + [whole + b"\0", bytes(9), whole * 4000]
    for data in wrong:
        file_of(cache).write_bytes(data)
        assert cache.get(K) is None
        assert not file_of(cache).exists()
    file_of(cache, key("other")).write_bytes(whole)
    assert cache.get(key("other")) is None  # under a name that is not its own


@pytest.mark.parametrize(
    "body",
    [
        (1 << 63).to_bytes(8, "little") + b"{}code",
        (7).to_bytes(8, "little") + b"{}code",
        (6).to_bytes(8, "little") + b"{}code",
        (3).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]code",
        (90_000).to_bytes(8, "little") + b"[" * 90_000,
        b"\2\0",
        b"",
    ],
    ids=["far", "one beyond", "into the code", "JSON", "no dict", "deep", "short", "empty"],
)
def test_lengths_and_json_are_not_trusted_even_under_a_right_checksum(
    cache: Cache, body: bytes
) -> None:
    cache.put(K, META, CODE)
    magic = file_of(cache).read_bytes().partition(b"\n")[0] + b"\n"
    file_of(cache).write_bytes(magic + sha256(K.encode() + body).digest() + body)
    assert cache.get(K) is None


# ----- whose folder -------------------------------------------------------------------------------


def refused(folder: Path, why: str) -> None:
    """`disk()` refuses the folder with one warning, and leaves it as it is."""
    sk.config.cache_dir = str(folder)
    before = sorted(folder.iterdir())
    with pytest.warns(sk.StagekitWarning) as told:
        assert disk() is None
    (text,) = {str(warning.message) for warning in told}
    assert str(folder) in text and why in text and "chmod 700" in text
    assert told[0].filename == __file__
    assert disk() is None  # another warning would be an error
    cache = Cache(str(folder), 1 << 20)
    for use in (cache.info, cache.clear):
        with pytest.raises(sk.StagekitError, match=why):
            use()
    with pytest.warns(sk.StagekitWarning, match=why) as told, cache.building(K) as found:
        assert found is None
        cache.put(K, META, CODE)
        assert cache.get(K) is None
    assert len(told) == 1
    assert sorted(folder.iterdir()) == before


def test_the_folder_is_the_users_alone(tmp_path: Path) -> None:
    sk.config.cache_dir = str(tmp_path / "a" / "b")
    mask = os.umask(0)
    try:
        found = disk()
        assert found is not None
        found.put(K, META, CODE)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(found.folder).st_mode) == 0o700
    assert stat.S_IMODE(file_of(found).stat().st_mode) == 0o600
    assert disk() is found


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o1777])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    folder, link = tmp_path / "open", tmp_path / "link"
    folder.mkdir()
    folder.chmod(mode)
    link.symlink_to(folder)
    refused(folder, "can be written by others")
    refused(link, "can be written by others")
    folder.chmod(0o755)  # to read it does no harm
    assert disk() is not None


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, link = tmp_path / "theirs", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        refused(folder, "belongs to user")
        refused(link, "belongs to user")
    assert disk() is not None
    if os.geteuid() == 0:
        os.chown(folder, 12345, -1)
        sk.config.cache_dir += "/"  # not one that was warned of
        with pytest.warns(sk.StagekitWarning, match="belongs to user 12345, not to 0"):
            assert disk() is None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_is_no_entry(cache: Cache, mode: int) -> None:
    cache.put(K, META, CODE)
    file_of(cache).chmod(mode)
    assert cache.get(K) is None
    assert not file_of(cache).exists()


def test_a_file_of_another_user_is_no_entry(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs(at: int) -> Any:
        status = fstat(at)
        if stat.S_ISDIR(status.st_mode):
            return status
        return os.stat_result((*status[:4], status.st_uid + 1, *status[5:]))

    cache.put(K, META, CODE)
    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", theirs)
    assert cache.get(K) is None


def test_a_path_that_is_led_elsewhere_gains_nothing(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check of a folder and its use someone puts another one into its place."""

    def swap(status: os.stat_result) -> str | None:
        fault = check(status)
        if stat.S_ISDIR(status.st_mode) and not os.path.exists(aside):
            os.rename(cache.folder, aside)
            os.mkdir(cache.folder)
            file_of(cache).write_bytes(whole)
        return fault

    cache.put(K, META, b"theirs")
    whole, check, aside = file_of(cache).read_bytes(), module._fault, cache.folder + "-aside"
    cache.put(K, META, b"ours")
    monkeypatch.setattr(module, "_fault", swap)
    assert cache.get(K) == (META, b"ours")


# ----- on, off, and a disk that does not work -----------------------------------------------------


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STAGEKIT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Config().cache_dir == str(tmp_path / "stagekit")
    for unset in ("", "relative"):  # the specification has both ignored
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert Config().cache_dir == "~/.cache/stagekit"
    monkeypatch.setenv("HOME", str(tmp_path))
    sk.config.cache_dir = Config().cache_dir
    found = disk()
    assert found is not None and found.folder == str(tmp_path / ".cache" / "stagekit")
    monkeypatch.setenv("STAGEKIT_CACHE_DIR", "")
    assert Config().cache_dir == ""


@pytest.mark.parametrize("off", ["", "off"])
def test_it_can_be_off(off: str, capsys: pytest.CaptureFixture[str]) -> None:
    sk.config.cache_dir = off
    assert disk() is None
    assert main(["cache", "--info"]) == 0
    assert capsys.readouterr().out.startswith("state    off: STAGEKIT_CACHE_DIR or sk.config")
    assert main(["cache", "--clear"]) == 1
    assert "the compile cache is off" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    sk.config.cache_dir = str(tmp_path / "file" / "cache")
    with pytest.warns(sk.StagekitWarning, match="not kept on disk: .*file/cache: Not a directory"):
        assert disk() is None
    assert disk() is None
    sk.config.cache_dir = "~/.cache/stagekit"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.warns(sk.StagekitWarning, match="no home folder is known"):
        assert disk() is None


def test_a_disk_that_can_only_be_read_is_one_warning(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *args, **kwargs)

    def no_touch(*args: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    cache.put(K, META, CODE)
    used(cache, K, HOURS_AGO)
    opened = os.open
    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "utime", no_touch)
    assert cache.get(K) == (META, CODE)
    with pytest.warns(sk.StagekitWarning, match="Read-only file system") as told:
        for other in (key("1"), key("2")):
            with cache.building(other) as found:
                assert found is None
                cache.put(other, META, CODE)
    assert len(told) == 1
    assert names(cache) == [f"{K}.entry"]


def test_a_full_disk_is_one_warning(cache: Cache) -> None:
    cache.put(K, META, CODE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.warns(sk.StagekitWarning, match="File too large") as told:
            for other in (key("1"), key("2")):
                with cache.building(other) as found:
                    assert found is None
                    cache.put(other, META, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(told) == 1
    assert names(cache) == [f"{K}.entry"]


def test_a_disk_without_locks_is_one_warning(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*args: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(module.fcntl, "flock", no_locks)
    with pytest.warns(sk.StagekitWarning, match="No locks available") as told:
        for each in (K, key("other")):
            with cache.building(each) as found:
                assert found is None
                cache.put(each, META, CODE)
    assert len(told) == 1
    assert cache.get(K) == (META, CODE)


# ----- how much -----------------------------------------------------------------------------------


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 100_000)
    keys = [key(str(n)) for n in range(8)]
    for n, each in enumerate(keys):
        cache.put(each, {}, bytes(10_000))
        used(cache, each, HOURS_AGO + n)
    for each in (keys[0], keys[3]):
        assert cache.get(each) is not None  # a use
    cache.put(key("more"), {}, bytes(10_000))
    left = [n for n, each in enumerate(keys) if file_of(cache, each).exists()]
    assert left == [0, 3, 4, 5, 6, 7]
    assert file_of(cache, key("more")).exists()


def test_a_use_is_noted_once_a_minute(cache: Cache) -> None:
    cache.put(K, META, CODE)
    for seconds, moves in ((time.time() - 100, True), (time.time() - 20, False)):
        used(cache, K, seconds)
        cache.get(K)
        assert (file_of(cache).stat().st_mtime > seconds + 1) == moves


def test_the_whole_stays_below_the_cap(tmp_path: Path) -> None:
    draw = random.Random(2)
    caches = [Cache(str(tmp_path), 200_000) for _ in range(8)]  # as many processes
    most = 0
    for n in range(600):
        draw.choice(caches).put(key(str(n)), {}, bytes(draw.choice([100, 1000, 3000, 9000])))
        most = max(most, total(caches[0]))
    assert 150_000 < most <= 200_000
    caches[0].put(K, {}, bytes(100_000))
    assert not file_of(caches[0]).exists()  # one that would push out half of the others


def test_a_process_looks_at_the_folder_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    files = module._files
    monkeypatch.setattr(module, "_files", lambda at: looks.append(at) or files(at))
    cache = Cache(str(tmp_path), 64 * 10_000)
    for n in range(50):
        cache.put(key(str(n)), {}, bytes(900))  # in all 50 kB
    assert 5 <= len(looks) <= 7


def test_leftovers_of_the_dead_are_removed_when_old(cache: Cache) -> None:
    cache.put(K, META, CODE)
    left = [f"{n:016x}.tmp" for n in range(2)] + [f"{key(str(n))}.lock" for n in range(2)]
    for name in [*left, "other.tmp", "README"]:
        (Path(cache.folder) / name).write_bytes(b"")
    for name in (left[0], left[2], "other.tmp", "README"):
        os.utime(Path(cache.folder) / name, (HOURS_AGO, HOURS_AGO))
    Cache(cache.folder, 1 << 20).put(K, META, CODE)
    assert names(cache) == sorted([f"{K}.entry", left[1], left[3], "other.tmp", "README"])
    assert cache.clear() == 1
    assert names(cache) == ["README", "other.tmp"]  # never was the cache's


# ----- processes ----------------------------------------------------------------------------------

# Processes are forked by one small process, which need not be as large as this one.
PRELUDE = """
import os, random, signal, sys, time
from stagekit.kernels.machine import cache as module
from stagekit.kernels.machine.cache import Cache, key
folder = sys.argv[1]
cache = Cache(folder, 64 << 20)
K = key("graph", "cpu")

def forked(work, *args):
    child = os.fork()
    if child:
        return child
    try:
        work(*args)
    finally:
        os._exit(0)

def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def script(code: str, cache: Cache) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, cache.folder],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


ALL_AT_ONCE = """
go = time.time() + 0.1

def work(me):
    mine = Cache(folder, 64 << 20)
    time.sleep(max(0, go - time.time()))
    for n in range(3):
        with mine.building(key(str(n))) as found:
            if found is None:
                os.write(1, f"{n}\\n".encode())
                time.sleep(0.1)  # compiles
                mine.put(key(str(n)), {"n": n}, bytes([n]))
                found = {"n": n}, bytes([n])
        if found != ({"n": n}, bytes([n])):
            os.write(2, b"wrong code")

children = [forked(work, n) for n in range(8)]
for child in children:
    os.waitpid(child, 0)
"""


def test_of_8_processes_at_once_one_builds_each(cache: Cache) -> None:
    assert sorted(script(ALL_AT_ONCE, cache).split()) == ["0", "1", "2"]
    assert [name for name in names(cache) if not name.endswith(".entry")] == []


KILLED_WRITERS = """
draw = random.Random(3)
sizes = [0, 10_000, 1_000_000, 4_000_000]

def write(seed):
    draw = random.Random(seed)
    mine = Cache(folder, 64 << 20)
    while True:
        n = draw.randrange(8)
        with mine.building(key(str(n))):
            mine.put(key(str(n)), {"n": n}, bytes([n]) * draw.choice(sizes))

for round in range(25):
    children = [forked(write, 2 * round), forked(write, 2 * round + 1)]
    time.sleep(draw.uniform(0, 0.03))
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    damaged = []
    module.log = lambda subject, text: damaged.append(text) if "damaged" in text else None
    for n in range(8):
        found = cache.get(key(str(n)))
        if found is not None:
            meta, code = found
            assert meta == {"n": n} and code == bytes([n]) * len(code) and len(code) in sizes
    assert not damaged
    start = time.time()
    with cache.building(key(str(round % 8))):
        cache.put(key(str(round % 8)), {"n": round % 8}, b"")
    assert cache.get(key(str(round % 8))) == ({"n": round % 8}, b"")
    assert time.time() - start < 5  # no lock of the dead was waited for
print(cache.info().entries)
"""


def test_writers_killed_at_any_moment_leave_a_usable_cache(cache: Cache) -> None:
    assert 1 <= int(script(KILLED_WRITERS, cache)) <= 8


KILLED_BEFORE_THE_RENAME = """
def write():
    os.replace = lambda *args, **kwargs: die()
    with cache.building(K):
        cache.put(K, {}, b"code")

os.waitpid(forked(write), 0)
start = time.monotonic()
with cache.building(K) as found:
    print(found, time.monotonic() - start < 5)
"""


def test_a_killed_builder_is_not_waited_for(cache: Cache) -> None:
    assert script(KILLED_BEFORE_THE_RENAME, cache) == "None True\n"
    (left,) = names(cache)
    assert left.endswith(".tmp")


def test_a_child_does_not_keep_a_lock_that_its_parent_gave_up(cache: Cache) -> None:
    code = """
with cache.building(K):
    child = forked(time.sleep, 30)
start = time.monotonic()
with cache.building(K):
    print(time.monotonic() - start < 5)
os.kill(child, signal.SIGKILL)
"""
    assert script(code, cache) == "True\n"


def test_a_builder_that_hangs_is_not_waited_for_long(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.3)
    other = Cache(cache.folder, cache.max_bytes)
    with cache.building(K) as first:
        for least, most in ((0.3, 5), (0, 0.25)):  # patience is for all of its waits
            start = time.monotonic()
            with other.building(K) as found:
                assert first is found is None
            assert least <= time.monotonic() - start < most


def test_threads_wait_for_each_other(cache: Cache) -> None:
    built, found = [], []

    def work() -> None:
        with cache.building(K) as entry:
            if entry is None:
                built.append(K)
                time.sleep(0.05)
                cache.put(K, META, CODE)
            found.append(entry or (META, CODE))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [K]
    assert found == [(META, CODE)] * 8


def test_a_build_that_raises_gives_its_lock_up(cache: Cache) -> None:
    with pytest.raises(OSError, match="mine"), cache.building(K):
        raise OSError("mine")
    assert names(cache) == []
    start = time.monotonic()
    with cache.building(K) as found:
        assert found is None
    assert time.monotonic() - start < 5


def test_a_lock_on_a_file_that_is_gone_is_no_lock(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder gives its lock up just after another has opened the file."""

    def late(at: int, how: int) -> None:
        if lock:
            cache._release(f"{K}.lock", lock.pop())
        flock(at, how)

    lock: list[int] = []
    Path(cache.folder).mkdir(mode=0o700)
    with cache._opened() as at:
        lock.append(module._take(at, f"{K}.lock") or -1)
        assert module._take(at, f"{K}.lock") is None
        flock = module.fcntl.flock
        monkeypatch.setattr(module.fcntl, "flock", late)
        assert module._take(at, f"{K}.lock") is None
        found = module._take(at, f"{K}.lock")
        assert found is not None
        os.close(found)


def test_clearing_under_a_writer_is_no_error(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def cleared(*args: Any, **kwargs: Any) -> None:
        cache.clear()
        replace(*args, **kwargs)

    monkeypatch.setattr(os, "replace", cleared)
    with cache.building(K):
        cache.put(K, META, CODE)
    assert names(cache) == []


# ----- what can be seen ---------------------------------------------------------------------------


def test_log_prints_what_the_cache_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = Cache(str(tmp_path), 4000)
    sk.config.log = "trace,cache"
    cache.get(K)
    for n in range(3):
        cache.put(key(str(n)), {}, bytes(1200))
    cache.get(key("2"))
    cache.put(K, {}, bytes(3000))
    file_of(cache, key("2")).write_bytes(b"")
    cache.get(key("2"))
    lines = [line.removeprefix("stagekit.cache: ") for line in capsys.readouterr().err.split("\n")]
    said = [line.split()[:1] for line in lines if line]
    assert said == [
        ["miss"], ["store"], ["store"], ["evict"], ["store"], ["hit"], ["too"], ["damaged"],
        ["miss"],
    ]  # fmt: skip
    assert lines[0] == f"miss {K}"
    sk.config.log = ""
    cache.get(K)
    assert capsys.readouterr().err == ""


def command(*arguments: str, folder: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stagekit", *arguments],
        cwd=Path(__file__).parents[1], env={**os.environ, "STAGEKIT_CACHE_DIR": folder},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_commands(cache: Cache) -> None:
    cache.put(K, META, CODE)
    cache.put(key("old"), META, CODE)
    used(cache, key("old"), HOURS_AGO)
    size = total(cache)
    lines = command("cache", "--info", folder=cache.folder).stdout.splitlines()
    assert lines[:4] == [
        f"folder   {cache.folder}",
        "state    on",
        "entries  2",
        f"bytes    {size} of at most {256 << 20}",
    ]
    assert lines[4] == f"oldest   used {module._date(HOURS_AGO)}"
    assert lines[5].startswith("newest   used 20")
    cleared = command("cache", "--clear", folder=cache.folder)
    assert cleared.stdout == f"removed 2 entries from {cache.folder}\n"
    assert names(cache) == []


def test_commands_on_no_folder_and_on_a_refused_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sk.config.cache_dir = str(tmp_path / "none")
    assert main(["cache", "--info"]) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == ["state    on", "entries  0"]
    assert main(["cache", "--clear"]) == 0
    assert not (tmp_path / "none").exists()
    tmp_path.chmod(0o777)
    sk.config.cache_dir = str(tmp_path)
    assert main(["cache", "--info"]) == 0
    state, cure = capsys.readouterr().out.splitlines()[-2:]
    assert state.startswith(f"state    not used: {tmp_path} can be written by others")
    assert cure.startswith("fix      set STAGEKIT_CACHE_DIR")
    assert main(["cache", "--clear"]) == 1
    assert f"{tmp_path} can be written by others" in capsys.readouterr().err
    assert main(["cache"]) == main(["cache", "--info", "--clear"]) == 2
