"""The worker pool: `sk_parallel(task, frame, n)` runs `task(frame, k)` for each 0 <= k < n.

Chunks run in any order, on the caller's thread and on the workers; the call returns when all are
done. A worker that wakes too late has cost nothing, because the caller takes chunks as well and
waits only for those that somebody took. While the pool is at work, calls from other threads and
from inside tasks run serially; so do all calls with one thread, and where there is no Linux.

How it works. One word, the ticket, is `epoch << 32 | chunks left`. Whoever lowers it by one, by
compare-and-swap, owns a chunk. What to run is written before the ticket, and read before a claim: a
claim can succeed only while what was read still stands, since the next call writes it after the
last chunk of this one was claimed. Idle workers watch the ticket, first spinning, then asleep on
its upper half (a futex). Workers start at the first call that wants them. Where their number has
changed all leave, and new ones start.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache

from stagekit.kernels.machine import engine
from stagekit.settings import when_set

# Per machine: how to tell the core that this thread spins, and the number of the futex call.
_MACHINES = {
    "x86_64": ("@llvm.x86.sse2.pause", "", "", 202),
    "aarch64": ("@llvm.aarch64.hint", "i32", "i32 1", 98),
}

# Sleepers wait at the upper half of the ticket. 128 and 129 are FUTEX_WAIT and FUTEX_WAKE, for this
# process's threads only. The kernel puts to sleep only if the epoch still stands there.
_SYSTEM = """\
define internal void @pause() {{
  call void {pause}({argument})
  ret void
}}
define internal void @sleep(i64 %epoch) {{
  %value = trunc i64 %epoch to i32
  %half = getelementptr i8, ptr @work, i64 4
  %result = call i64 (i64, ...) @syscall(i64 {futex}, ptr %half, i32 128, i32 %value, ptr null)
  ret void
}}
define internal void @wake(i64 %threads) {{
  %number = trunc i64 %threads to i32
  %half = getelementptr i8, ptr @work, i64 4
  %result = call i64 (i64, ...) @syscall(i64 {futex}, ptr %half, i32 129, i32 %number)
  ret void
}}
declare void {pause}({type})
declare i64 @syscall(i64, ...)
"""

# Each on cache lines of its own: what everybody watches, what workers add to, what sleepers and
# resizing change, what callers change. The ticket must be followed by what it publishes.
_STATE = """\
%work = type { i64, ptr, ptr, i64, [32 x i8] }
%line = type { i64, [56 x i8] }
@work = internal global %work zeroinitializer, align 64
@done = internal global %line zeroinitializer, align 64
@sleeping = internal global %line zeroinitializer, align 64
@generation = internal global %line zeroinitializer, align 64
@busy = internal global %line zeroinitializer, align 64
@started = internal global %line { i64 1, [56 x i8] zeroinitializer }, align 64
@sk_threads = global %line { i64 1, [56 x i8] zeroinitializer }, align 64
@task = internal alias ptr, getelementptr (i8, ptr @work, i64 8)
@frame = internal alias ptr, getelementptr (i8, ptr @work, i64 16)
@chunks = internal alias ptr, getelementptr (i8, ptr @work, i64 24)
"""

# Runs chunks until none is left; gives how many this thread ran.
_DRAIN = """\
define internal i64 @drain() {
entry:
  %first = load atomic i64, ptr @work acquire, align 8
  br label %look
look:
  %count = phi i64 [ 0, %entry ], [ %count, %claim ], [ %more, %run ]
  %ticket = phi i64 [ %first, %entry ], [ %seen, %claim ], [ %after, %run ]
  %left = and i64 %ticket, 4294967295
  %none = icmp eq i64 %left, 0
  br i1 %none, label %end, label %claim
claim:
  %task = load atomic ptr, ptr @task monotonic, align 8
  %frame = load atomic ptr, ptr @frame monotonic, align 8
  %n = load atomic i64, ptr @chunks monotonic, align 8
  %lower = sub i64 %ticket, 1
  %pair = cmpxchg ptr @work, i64 %ticket, i64 %lower acq_rel acquire, align 8
  %seen = extractvalue { i64, i1 } %pair, 0
  %won = extractvalue { i64, i1 } %pair, 1
  br i1 %won, label %run, label %look
run:
  %k = sub i64 %n, %left
  call void %task(ptr %frame, i64 %k)
  %more = add i64 %count, 1
  %after = load atomic i64, ptr @work acquire, align 8
  br label %look
end:
  ret i64 %count
}
"""

# A worker of the generation that it is given; it leaves when there is a younger one.
_WORKER = """\
define internal ptr @worker(ptr %argument) {
entry:
  %mine = ptrtoint ptr %argument to i64
  br label %look
look:
  %ticket = load atomic i64, ptr @work acquire, align 8
  %epoch = lshr i64 %ticket, 32
  %generation = load atomic i64, ptr @generation acquire, align 8
  %young = icmp eq i64 %generation, %mine
  br i1 %young, label %work, label %leave
work:
  %ran = call i64 @drain()
  %none = icmp eq i64 %ran, 0
  br i1 %none, label %spin, label %report
report:
  atomicrmw add ptr @done, i64 %ran release, align 8
  br label %spin
spin:
  %i = phi i64 [ 0, %work ], [ 0, %report ], [ %next, %still ], [ %next, %yield ]
  call void @pause()
  %now = load atomic i64, ptr @work acquire, align 8
  %era = lshr i64 %now, 32
  %same = icmp eq i64 %era, %epoch
  br i1 %same, label %still, label %look
still:
  %next = add i64 %i, 1
  %low = and i64 %next, 63
  %pausing = icmp ne i64 %low, 0
  br i1 %pausing, label %spin, label %yield
yield:
  %ignored = call i32 @sched_yield()
  %tired = icmp uge i64 %next, 8192
  br i1 %tired, label %sleep, label %spin
sleep:
  atomicrmw add ptr @sleeping, i64 1 seq_cst, align 8
  call void @sleep(i64 %epoch)
  br label %look
leave:
  ret ptr null
}
"""

# Starts a new generation of workers. Sleepers stay counted: a wake too many does no harm. Signals
# are blocked meanwhile, so that workers inherit that and Python's handlers never run on them.
_RESIZE = """\
define internal void @resize(i64 %threads) {
entry:
  %tid = alloca i64, align 8
  %all = alloca [128 x i8], align 8
  %mask = alloca [128 x i8], align 8
  %old = load atomic i64, ptr @generation monotonic, align 8
  %generation = add i64 %old, 1
  %argument = inttoptr i64 %generation to ptr
  store atomic i64 %generation, ptr @generation seq_cst, align 8
  store i64 %threads, ptr @started, align 8
  call void @wake(i64 2147483647)
  %filled = call i32 @sigfillset(ptr %all)
  %blocked = call i32 @pthread_sigmask(i32 2, ptr %all, ptr %mask)
  br label %look
look:
  %i = phi i64 [ 1, %entry ], [ %next, %detach ]
  %fewer = icmp ult i64 %i, %threads
  br i1 %fewer, label %create, label %end
create:
  %failed = call i32 @pthread_create(ptr %tid, ptr null, ptr @worker, ptr %argument)
  %ok = icmp eq i32 %failed, 0
  br i1 %ok, label %detach, label %end
detach:
  %id = load i64, ptr %tid, align 8
  %detached = call i32 @pthread_detach(i64 %id)
  %next = add i64 %i, 1
  br label %look
end:
  %restored = call i32 @pthread_sigmask(i32 2, ptr %mask, ptr null)
  ret void
}
"""

_PARALLEL = """\
define void @sk_parallel(ptr %task, ptr %frame, i64 %n) {
entry:
  %threads = load atomic i64, ptr @sk_threads monotonic, align 8
  %several = icmp ugt i64 %threads, 1
  %over = sub i64 %n, 2
  %fits = icmp ult i64 %over, 4294967294
  %shared = and i1 %several, %fits
  br i1 %shared, label %lock, label %serial
lock:
  %pair = cmpxchg ptr @busy, i64 0, i64 1 acquire monotonic, align 8
  %free = extractvalue { i64, i1 } %pair, 1
  br i1 %free, label %locked, label %serial
locked:
  %started = load i64, ptr @started, align 8
  %current = icmp eq i64 %started, %threads
  br i1 %current, label %publish, label %change
change:
  call void @resize(i64 %threads)
  br label %publish
publish:
  store atomic ptr %task, ptr @task monotonic, align 8
  store atomic ptr %frame, ptr @frame monotonic, align 8
  store atomic i64 %n, ptr @chunks monotonic, align 8
  store atomic i64 0, ptr @done monotonic, align 8
  %last = load atomic i64, ptr @work monotonic, align 8
  %epoch = add i64 %last, 4294967296
  %ticket = or i64 %epoch, %n
  %ignored = atomicrmw xchg ptr @work, i64 %ticket seq_cst, align 8
  %asleep = load atomic i64, ptr @sleeping seq_cst, align 8
  %none = icmp eq i64 %asleep, 0
  br i1 %none, label %take, label %wake
wake:
  %others = sub i64 %n, 1
  %few = call i64 @llvm.umin.i64(i64 %asleep, i64 %others)
  %less = atomicrmw sub ptr @sleeping, i64 %few monotonic, align 8
  call void @wake(i64 %few)
  br label %take
take:
  %ran = call i64 @drain()
  %rest = sub i64 %n, %ran
  br label %wait
wait:
  %i = phi i64 [ 1, %take ], [ %next, %pause ], [ %next, %yield ]
  %done = load atomic i64, ptr @done acquire, align 8
  %ready = icmp eq i64 %done, %rest
  br i1 %ready, label %unlock, label %pause
pause:
  call void @pause()
  %next = add i64 %i, 1
  %low = and i64 %i, 63
  %pausing = icmp ne i64 %low, 0
  br i1 %pausing, label %wait, label %yield
yield:
  %yielded = call i32 @sched_yield()
  br label %wait
unlock:
  store atomic i64 0, ptr @busy release, align 8
  ret void
serial:
  call void @serially(ptr %task, ptr %frame, i64 %n)
  ret void
}
"""

# A forked child has the words and no workers, and maybe a lock that no thread will ever open.
_FORKED = """\
define void @sk_forked() {
  %ticket = load i64, ptr @work, align 8
  %epoch = and i64 %ticket, -4294967296
  store i64 %epoch, ptr @work, align 8
  store i64 0, ptr @sleeping, align 8
  store i64 1, ptr @started, align 8
  store i64 0, ptr @busy, align 8
  ret void
}
declare i32 @sched_yield()
declare i32 @sigfillset(ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i64 @llvm.umin.i64(i64, i64)
"""

_SERIAL = """\
define {linkage} void @{name}(ptr %task, ptr %frame, i64 %n) {{
entry:
  %any = icmp ne i64 %n, 0
  br i1 %any, label %run, label %end
run:
  %k = phi i64 [ 0, %entry ], [ %next, %run ]
  call void %task(ptr %frame, i64 %k)
  %next = add i64 %k, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %run, label %end
end:
  ret void
}}
"""


def source(machine: str | None) -> str:
    """The pool's LLVM IR for Linux on a machine (as `platform` calls it), None: the serial one."""
    if machine is None:
        return _SERIAL.format(linkage="", name="sk_parallel")
    pause, type_, argument, futex = _MACHINES[machine]
    system = _SYSTEM.format(pause=pause, type=type_, argument=argument, futex=futex)
    serially = _SERIAL.format(linkage="internal", name="serially")
    return "\n".join([_STATE, system, _DRAIN, _WORKER, _RESIZE, serially, _PARALLEL, _FORKED])


@cache
def _started() -> int:
    machine = platform.machine() if sys.platform == "linux" else None
    machine = machine if machine in _MACHINES else None
    library = engine.load(engine.compile_ir(source(machine), codegen_level=0))
    parallel = library.address("sk_parallel")
    engine.symbol("sk_parallel", parallel)
    if machine is not None:
        threads = ctypes.c_int64.from_address(library.address("sk_threads"))
        when_set("num_threads", lambda number: setattr(threads, "value", max(1, number)))
        os.register_at_fork(after_in_child=ctypes.CFUNCTYPE(None)(library.address("sk_forked")))
    # Workers stand in this code until the process is gone, longer than Python lives.
    library.keep()
    return parallel


def start() -> int:
    """The address of `sk_parallel`, which object code knows by that name from now on.

    Needs llvmlite. Starts no thread: the first parallel loop does.
    """
    with engine.lock:
        return _started()
