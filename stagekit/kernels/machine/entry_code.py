"""The machine code of a call: one function of any table, compiled once in a process.

`sk_call(self, args, nargs)` is a METH_FASTCALL builtin. `self` is a tuple whose first item is an
array of words, the table (`Table`): what the cells passed must be, what results they give, which
plan to run. The function holds no address: it finds CPython and NumPy through the words of `Api`.

Nothing of Python runs between the check of the operands and the last commit, unless the GIL is
given up: no object that the garbage collector tracks is made until then.
"""

from __future__ import annotations

import re
from enum import IntEnum


class Table(IntEnum):
    """Words of a table. Rows of operands: class, descr, rank, address of the sizes. Rows of
    results: descr, rank, address of the sizes, the operand whose value it becomes or -1, whether
    that may happen in place, the array that it is a view of (operands, then results) or -1, and the
    word of the plan's block that gets its pointer. Rows of ambient variables: the variable, two
    objects it may be.
    """

    OPERANDS = 0
    OPERAND_ROWS = 1
    RESULTS = 2
    RESULT_ROWS = 3
    RETURNED = 4  # how many results are returned
    SINGLE = 5  # the result that is returned as it is, not in a tuple, or -1
    SIZES = 6
    SIZE_ROWS = 7
    AMBIENT = 8
    AMBIENT_ROWS = 9
    PLAN = 10
    ARENA_BYTES = 11
    ARENAS = 12  # address of the first free arena
    LONG = 13  # 1: give up the GIL where another thread may want it; 2: the plan calls Python
    CALLS = 14  # address of a count of calls
    STAMP = 15  # address of the number of the last one
    API = 16
    OUTPUTS = 17  # how many results the plan itself gives: those that are no views


class Api(IntEnum):
    """Words that say where CPython, NumPy and the C library are."""

    NOT_IMPLEMENTED = 0
    NDARRAY = 1
    TENSOR = 2
    SLOT = 3  # the offset of `_value` in a tensor
    NEW_ARRAY = 4
    NEW_OBJECT = 5
    NEW_TUPLE = 6
    INCREF = 7
    DECREF = 8
    CONTEXT_GET = 9
    SAVE_THREAD = 10
    RESTORE_THREAD = 11
    INTERPRETER = 12
    FIRST_THREAD = 13
    NEXT_THREAD = 14
    ALLOCATE = 15
    ADVISE = 16
    FREE = 17
    SET_BASE = 18


class Object(IntEnum):
    """Words of Python objects: of all, of tuples, of NumPy arrays."""

    REFERENCES = 0
    TYPE = 1
    ITEMS = 3
    DATA = 2
    RANK = 3
    SHAPE = 4
    BASE = 6
    DESCR = 7
    FLAGS = 8
    WEAK_REFERENCES = 9


ORDERED = 0x101  # C-contiguous and aligned
OWNED = 0x404  # owns its data, which may be written
FRESH = 0x501  # of a view: C-contiguous, aligned, writeable
HUGE = 1 << 21  # from here on arenas are of huge pages
ROW = 7  # the words of a result

_CODE = """
define internal i1 @is_ambient(ptr %table, ptr %api) {
entry:
  %count = get i64 %table, Table.AMBIENT
  %rows = get ptr %table, Table.AMBIENT_ROWS
  %lookup = get ptr %api, Api.CONTEXT_GET
  %decref = get ptr %api, Api.DECREF
  %found = alloca ptr
  for i to %count after entry
  %start = mul i64 %i, 3
  %row = getelementptr i64, ptr %rows, i64 %start
  %variable = get ptr %row, 0
  %one = get ptr %row, 1
  %other = get ptr %row, 2
  %status = call i32 %lookup(ptr %variable, ptr null, ptr %found)
  %now = load ptr, ptr %found
  call void %decref(ptr %now)
  %is.one = icmp eq ptr %now, %one
  %is.other = icmp eq ptr %now, %other
  %allowed = or i1 %is.one, %is.other
  br i1 %allowed, label %i.next, label %miss
  end i
  ret i1 true
miss:
  ret i1 false
}

; Whether the cells are what the table says, no two of them one; their arrays and data pointers.
define internal i1 @take_operands(ptr %table, ptr %api, ptr %args, ptr %arrays, ptr %block) {
entry:
  %n = get i64 %table, Table.OPERANDS
  %rows = get ptr %table, Table.OPERAND_ROWS
  %slot = get i64 %api, Api.SLOT
  %ndarray = get ptr %api, Api.NDARRAY
  %rounded = add i64 %n, 7
  %groups = lshr i64 %rounded, 3
  %seen = alloca <8 x i64>, i64 %groups
  for z to %groups after entry
  %clear = getelementptr <8 x i64>, ptr %seen, i64 %z
  store <8 x i64> zeroinitializer, ptr %clear
  end z
  for i to %n after z.done
  %start = shl i64 %i, 2
  %row = getelementptr i64, ptr %rows, i64 %start
  %cell = get ptr %args, %i
  %type = get ptr %cell, Object.TYPE
  %wanted = get ptr %row, 0
  %known = icmp eq ptr %type, %wanted
  br i1 %known, label %is_known, label %miss
is_known:
  %place = getelementptr i8, ptr %cell, i64 %slot
  %array = load ptr, ptr %place
  %is.empty = icmp eq ptr %array, null
  br i1 %is.empty, label %miss, label %is_filled
is_filled:
  %array.type = get ptr %array, Object.TYPE
  %is.array = icmp eq ptr %array.type, %ndarray
  br i1 %is.array, label %is_array, label %miss
is_array:
  %descr = get ptr %array, Object.DESCR
  %wanted.descr = get ptr %row, 1
  %same.descr = icmp eq ptr %descr, %wanted.descr
  %rank = get i32 %array, Object.RANK
  %wanted.rank = get i64 %row, 2
  %rank.wide = sext i32 %rank to i64
  %same.rank = icmp eq i64 %rank.wide, %wanted.rank
  %flags = get i32 %array, Object.FLAGS
  %layout = and i32 %flags, ORDERED
  %ordered = icmp eq i32 %layout, ORDERED
  %typed = and i1 %same.descr, %same.rank
  %fits = and i1 %typed, %ordered
  br i1 %fits, label %is_typed, label %miss
is_typed:
  %shape = get ptr %array, Object.SHAPE
  %wanted.shape = get ptr %row, 3
  for d to %wanted.rank after is_typed
  %size = get i64 %shape, %d
  %wanted.size = get i64 %wanted.shape, %d
  %same.size = icmp eq i64 %size, %wanted.size
  br i1 %same.size, label %d.next, label %miss
  end d
  %address = ptrtoint ptr %cell to i64
  %first = insertelement <8 x i64> poison, i64 %address, i64 0
  %all = shufflevector <8 x i64> %first, <8 x i64> poison, <8 x i32> zeroinitializer
  %before = add i64 %i, 7
  %filled = lshr i64 %before, 3
  for g to %filled after d.done
  %group.at = getelementptr <8 x i64>, ptr %seen, i64 %g
  %group = load <8 x i64>, ptr %group.at
  %equal = icmp eq <8 x i64> %group, %all
  %again = call i1 @llvm.vector.reduce.or.v8i1(<8 x i1> %equal)
  br i1 %again, label %miss, label %g.next
  end g
  put i64 %address, %seen, %i
  put ptr %array, %arrays, %i
  %data = get ptr %array, Object.DATA
  put ptr %data, %block, %i
  end i
  ret i1 true
miss:
  ret i1 false
}

; Whether the plan runs while other threads of Python do.
define internal i1 @is_shared(ptr %table, ptr %api) {
entry:
  %long = get i64 %table, Table.LONG
  switch i64 %long, label %yes [i64 0, label %no
                                i64 1, label %ask]
ask:
  %interpreter = get ptr %api, Api.INTERPRETER
  %first = get ptr %api, Api.FIRST_THREAD
  %next = get ptr %api, Api.NEXT_THREAD
  %here = call ptr %interpreter()
  %thread = call ptr %first(ptr %here)
  %another = call ptr %next(ptr %thread)
  %alone = icmp eq ptr %another, null
  br i1 %alone, label %no, label %yes
yes:
  ret i1 true
no:
  ret i1 false
}

; Lets go of the first `count` results; one made in place is the cell's own.
define internal void @drop_results(ptr %table, ptr %api, ptr %arrays, i64 %count) {
entry:
  %n = get i64 %table, Table.OPERANDS
  %rows = get ptr %table, Table.RESULT_ROWS
  %decref = get ptr %api, Api.DECREF
  %results = getelementptr ptr, ptr %arrays, i64 %n
  for j to %count after entry
  %array = get ptr %results, %j
  %start = mul i64 %j, ROW
  %row = getelementptr i64, ptr %rows, i64 %start
  %cell = get i64 %row, 3
  %is.returned = icmp slt i64 %cell, 0
  br i1 %is.returned, label %drop, label %ask
ask:
  %old = get ptr %arrays, %cell
  %in.place = icmp eq ptr %old, %array
  br i1 %in.place, label %j.next, label %drop
drop:
  call void %decref(ptr %array)
  end j
  ret void
}

; Arrays for the results: fresh ones, or the cell's own where nothing else holds it.
define internal i1 @make_results(ptr %table, ptr %api, ptr %arrays, ptr %block, i1 %shared) {
entry:
  %n = get i64 %table, Table.OPERANDS
  %m = get i64 %table, Table.RESULTS
  %rows = get ptr %table, Table.RESULT_ROWS
  %new = get ptr %api, Api.NEW_ARRAY
  %ndarray = get ptr %api, Api.NDARRAY
  %incref = get ptr %api, Api.INCREF
  %results = getelementptr ptr, ptr %arrays, i64 %n
  for j to %m after entry
  %start = mul i64 %j, ROW
  %row = getelementptr i64, ptr %rows, i64 %start
  %whole = get i64 %row, 5
  %is.view = icmp sge i64 %whole, 0
  br i1 %is.view, label %view, label %own
view:
  %source = get ptr %arrays, %whole
  %source.data = get ptr %source, Object.DATA
  br label %fresh
own:
  %in.place = get i64 %row, 4
  %allowed = icmp ne i64 %in.place, 0
  %quiet = xor i1 %shared, true
  %asked = and i1 %allowed, %quiet
  br i1 %asked, label %ask, label %fresh
ask:
  %cell = get i64 %row, 3
  %old = get ptr %arrays, %cell
  %references = get i64 %old, Object.REFERENCES
  %alone = icmp eq i64 %references, 1
  %base = get ptr %old, Object.BASE
  %based = icmp eq ptr %base, null
  %weak = get ptr %old, Object.WEAK_REFERENCES
  %unwatched = icmp eq ptr %weak, null
  %flags = get i32 %old, Object.FLAGS
  %rights = and i32 %flags, OWNED
  %owned = icmp eq i32 %rights, OWNED
  %ok.1 = and i1 %alone, %based
  %ok.2 = and i1 %unwatched, %owned
  %ok = and i1 %ok.1, %ok.2
  br i1 %ok, label %made, label %fresh
fresh:
  %viewed = phi ptr [%source, %view], [null, %own], [null, %ask]
  %given = phi ptr [%source.data, %view], [null, %own], [null, %ask]
  %rights.given = select i1 %is.view, i32 FRESH, i32 0
  %descr = get ptr %row, 0
  %rank.wide = get i64 %row, 1
  %shape = get ptr %row, 2
  call void %incref(ptr %descr)
  %rank = trunc i64 %rank.wide to i32
  %fresh.array = call ptr %new(ptr %ndarray, ptr %descr, i32 %rank, ptr %shape, ptr null,
                               ptr %given, i32 %rights.given, ptr null)
  %failed = icmp eq ptr %fresh.array, null
  br i1 %failed, label %fail, label %exists
exists:
  br i1 %is.view, label %based.on, label %made
based.on:
  call void %incref(ptr %viewed)
  %set.base = get ptr %api, Api.SET_BASE
  %status = call i32 %set.base(ptr %fresh.array, ptr %viewed)
  put ptr %fresh.array, %results, %j
  br label %j.next
made:
  %array = phi ptr [%old, %ask], [%fresh.array, %exists]
  put ptr %array, %results, %j
  %data = get ptr %array, Object.DATA
  %word = get i64 %row, 6
  put ptr %data, %block, %word
  end j
  ret i1 true
fail:
  call void @drop_results(ptr %table, ptr %api, ptr %arrays, i64 %j)
  ret i1 false
}

; An arena of at least so many bytes from the list of free ones, each with its successor and its
; capacity in its first words, or a new one. The GIL is held: nobody else is at the list.
define internal ptr @take_arena(ptr %list, ptr %api, i64 %bytes, ptr %capacity) {
entry:
  %free = get ptr %api, Api.FREE
  %head = load ptr, ptr %list
  %none = icmp eq ptr %head, null
  br i1 %none, label %new, label %some
some:
  %next = get ptr %head, 0
  store ptr %next, ptr %list
  %held = get i64 %head, 1
  %enough = icmp uge i64 %held, %bytes
  br i1 %enough, label %found, label %small
small:
  call void %free(ptr %head)
  br label %new
found:
  store i64 %held, ptr %capacity
  ret ptr %head
new:
  %is.huge = icmp uge i64 %bytes, HUGE
  %alignment = select i1 %is.huge, i64 HUGE, i64 64
  %less = sub i64 %alignment, 1
  %over = add i64 %bytes, %less
  %mask = xor i64 %less, -1
  %rounded = and i64 %over, %mask
  %allocate = get ptr %api, Api.ALLOCATE
  %made = call ptr %allocate(i64 %alignment, i64 %rounded)
  store i64 %rounded, ptr %capacity
  %failed = icmp eq ptr %made, null
  %plain = xor i1 %is.huge, true
  %done = or i1 %failed, %plain
  br i1 %done, label %give, label %advised
advised:
  %advise = get ptr %api, Api.ADVISE
  %status = call i32 %advise(ptr %made, i64 %rounded, i32 14)
  br label %give
give:
  ret ptr %made
}

define internal void @give_arena(ptr %list, ptr %arena, i64 %capacity) {
entry:
  %head = load ptr, ptr %list
  put ptr %head, %arena, 0
  put i64 %capacity, %arena, 1
  store ptr %arena, ptr %list
  ret void
}

; Runs the plan. Where others run too, the operands are held, whatever becomes of their cells.
define internal i64 @run(ptr %table, ptr %api, ptr %arrays, ptr %block, i1 %shared) {
entry:
  %plan = get ptr %table, Table.PLAN
  br i1 %shared, label %hold, label %plain
plain:
  %status.plain = call i64 %plan(ptr %block)
  ret i64 %status.plain
hold:
  %n = get i64 %table, Table.OPERANDS
  %incref = get ptr %api, Api.INCREF
  %decref = get ptr %api, Api.DECREF
  for i to %n after hold
  %array = get ptr %arrays, %i
  call void %incref(ptr %array)
  end i
  %save = get ptr %api, Api.SAVE_THREAD
  %thread = call ptr %save()
  %status = call i64 %plan(ptr %block)
  %restore = get ptr %api, Api.RESTORE_THREAD
  call void %restore(ptr %thread)
  for k to %n after i.done
  %array.again = get ptr %arrays, %k
  call void %decref(ptr %array.again)
  end k
  ret i64 %status
}

; Puts results into their cells; what those held is dropped when all are in.
define internal void @commit(ptr %table, ptr %api, ptr %args, ptr %arrays) {
entry:
  %n = get i64 %table, Table.OPERANDS
  %m = get i64 %table, Table.RESULTS
  %returned = get i64 %table, Table.RETURNED
  %writes = sub i64 %m, %returned
  %rows = get ptr %table, Table.RESULT_ROWS
  %decref = get ptr %api, Api.DECREF
  %slot = get i64 %api, Api.SLOT
  %results = getelementptr ptr, ptr %arrays, i64 %n
  %none = icmp eq i64 %writes, 0
  br i1 %none, label %k.done, label %some
some:
  for j to %m after some
  %start = mul i64 %j, ROW
  %row = getelementptr i64, ptr %rows, i64 %start
  %cell = get i64 %row, 3
  %is.returned = icmp slt i64 %cell, 0
  br i1 %is.returned, label %j.next, label %write
write:
  %object = get ptr %args, %cell
  %place = getelementptr i8, ptr %object, i64 %slot
  %old = load ptr, ptr %place
  %array = get ptr %results, %j
  store ptr %array, ptr %place
  %in.place = icmp eq ptr %old, %array
  %dropped = select i1 %in.place, ptr null, ptr %old
  put ptr %dropped, %results, %j
  end j
  for k to %m after j.done
  %start.k = mul i64 %k, ROW
  %row.k = getelementptr i64, ptr %rows, i64 %start.k
  %cell.k = get i64 %row.k, 3
  %is.written = icmp sge i64 %cell.k, 0
  %old.k = get ptr %results, %k
  %is.old = icmp ne ptr %old.k, null
  %drops = and i1 %is.written, %is.old
  br i1 %drops, label %drop, label %k.next
drop:
  call void %decref(ptr %old.k)
  end k
  ret void
}

; A tensor of an array, whose reference it takes; null with MemoryError set.
define internal ptr @tensor(ptr %api, ptr %array) {
entry:
  %new = get ptr %api, Api.NEW_OBJECT
  %type = get ptr %api, Api.TENSOR
  %cell = call ptr %new(ptr %type, i64 0)
  %failed = icmp eq ptr %cell, null
  br i1 %failed, label %fail, label %made
made:
  %slot = get i64 %api, Api.SLOT
  %place = getelementptr i8, ptr %cell, i64 %slot
  store ptr %array, ptr %place
  ret ptr %cell
fail:
  %decref = get ptr %api, Api.DECREF
  call void %decref(ptr %array)
  ret ptr null
}

define internal ptr @returned(ptr %table, ptr %api, ptr %arrays) {
entry:
  %n = get i64 %table, Table.OPERANDS
  %m = get i64 %table, Table.RESULTS
  %rows = get ptr %table, Table.RESULT_ROWS
  %results = getelementptr ptr, ptr %arrays, i64 %n
  %single = get i64 %table, Table.SINGLE
  %is.single = icmp sge i64 %single, 0
  br i1 %is.single, label %one, label %several
one:
  %only = get ptr %results, %single
  %only.cell = call ptr @tensor(ptr %api, ptr %only)
  ret ptr %only.cell
several:
  %count = get i64 %table, Table.RETURNED
  %new = get ptr %api, Api.NEW_TUPLE
  %tuple = call ptr %new(i64 %count)
  %failed = icmp eq ptr %tuple, null
  %filled = alloca i64
  store i64 0, ptr %filled
  for j to %m after several
  %start = mul i64 %j, ROW
  %row = getelementptr i64, ptr %rows, i64 %start
  %cell = get i64 %row, 3
  %is.written = icmp sge i64 %cell, 0
  br i1 %is.written, label %j.next, label %mine
mine:
  %array = get ptr %results, %j
  br i1 %failed, label %lost, label %make
lost:
  %decref = get ptr %api, Api.DECREF
  call void %decref(ptr %array)
  br label %j.next
make:
  %made = call ptr @tensor(ptr %api, ptr %array)
  %place = load i64, ptr %filled
  %after = add i64 %place, 1
  store i64 %after, ptr %filled
  %items = getelementptr i64, ptr %tuple, i64 Object.ITEMS
  put ptr %made, %items, %place
  end j
  br i1 %failed, label %fail, label %check
check:
  for t to %count after check
  %all.items = getelementptr i64, ptr %tuple, i64 Object.ITEMS
  %item = get ptr %all.items, %t
  %is.missing = icmp eq ptr %item, null
  br i1 %is.missing, label %incomplete, label %t.next
  end t
  ret ptr %tuple
incomplete:
  %release = get ptr %api, Api.DECREF
  call void %release(ptr %tuple)
  br label %fail
fail:
  ret ptr null
}

define ptr @sk_call(ptr %self, ptr %args, i64 %given) {
entry:
  %words = get ptr %self, Object.ITEMS
  %table = get ptr %words, Object.DATA
  %api = get ptr %table, Table.API
  %n = get i64 %table, Table.OPERANDS
  %m = get i64 %table, Table.RESULTS
  %complete = icmp eq i64 %given, %n
  br i1 %complete, label %ambient, label %miss
ambient:
  %as.usual = call i1 @is_ambient(ptr %table, ptr %api)
  br i1 %as.usual, label %operands, label %miss
operands:
  %sizes = get i64 %table, Table.SIZES
  %buffers = add i64 %n, %m
  %arrays = alloca ptr, i64 %buffers
  %outputs = get i64 %table, Table.OUTPUTS
  %place = add i64 %n, %outputs
  %pointers = add i64 %place, 1
  %length = add i64 %pointers, %sizes
  %block = alloca i64, i64 %length
  %fit = call i1 @take_operands(ptr %table, ptr %api, ptr %args, ptr %arrays, ptr %block)
  br i1 %fit, label %arena, label %miss
arena:
  %capacity = alloca i64
  %bytes = get i64 %table, Table.ARENA_BYTES
  %list = get ptr %table, Table.ARENAS
  %needs = icmp ne i64 %bytes, 0
  br i1 %needs, label %take, label %allocate
take:
  %taken = call ptr @take_arena(ptr %list, ptr %api, i64 %bytes, ptr %capacity)
  %exhausted = icmp eq ptr %taken, null
  br i1 %exhausted, label %miss, label %allocate
allocate:
  %scratch = phi ptr [null, %arena], [%taken, %take]
  %shared = call i1 @is_shared(ptr %table, ptr %api)
  %made = call i1 @make_results(ptr %table, ptr %api, ptr %arrays, ptr %block, i1 %shared)
  br i1 %made, label %fill, label %out_of_memory
fill:
  put ptr %scratch, %block, %place
  %own.sizes = get ptr %table, Table.SIZE_ROWS
  %block.sizes = getelementptr i64, ptr %block, i64 %pointers
  for s to %sizes after fill
  %size = get i64 %own.sizes, %s
  put i64 %size, %block.sizes, %s
  end s
  %status = call i64 @run(ptr %table, ptr %api, ptr %arrays, ptr %block, i1 %shared)
  br i1 %needs, label %give, label %judge
give:
  %held = load i64, ptr %capacity
  call void @give_arena(ptr %list, ptr %scratch, i64 %held)
  br label %judge
judge:
  %passed = icmp eq i64 %status, 0
  br i1 %passed, label %success, label %failure
success:
  call void @commit(ptr %table, ptr %api, ptr %args, ptr %arrays)
  %calls = get ptr %table, Table.CALLS
  %stamp = get ptr %table, Table.STAMP
  %count = load i64, ptr %calls
  %number = add i64 %count, 1
  store i64 %number, ptr %calls
  store i64 %number, ptr %stamp
  %result = call ptr @returned(ptr %table, ptr %api, ptr %arrays)
  ret ptr %result
failure:
  call void @drop_results(ptr %table, ptr %api, ptr %arrays, i64 %m)
  br label %miss
out_of_memory:
  br i1 %needs, label %give_back, label %raised
give_back:
  %held.back = load i64, ptr %capacity
  call void @give_arena(ptr %list, ptr %scratch, i64 %held.back)
  br label %raised
raised:
  ret ptr null
miss:
  %answer = get ptr %api, Api.NOT_IMPLEMENTED
  %incref = get ptr %api, Api.INCREF
  call void %incref(ptr %answer)
  ret ptr %answer
}

declare i1 @llvm.vector.reduce.or.v8i1(<8 x i1>)
"""

_GET = re.compile(r"(%[\w.]+) = get (\w+) (%[\w.]+), (\S+)")
_PUT = re.compile(r"put (\w+) (%[\w.]+), (%[\w.]+), (\S+)")
_FOR = re.compile(r"for (\w+) to (%[\w.]+) after (\w[\w.]*)")
_END = re.compile(r"end (\w+)")


def code() -> str:
    """The LLVM IR of `sk_call`."""
    kinds = (Table, Api, Object)
    names = {f"{k.__name__}.{name}": int(w) for k in kinds for name, w in k.__members__.items()}
    names |= {"ORDERED": ORDERED, "OWNED": OWNED, "FRESH": FRESH, "HUGE": HUGE, "ROW": ROW}
    return expanded(re.sub(r"\b[A-Z][\w.]*", lambda m: str(names.get(m[0], m[0])), _CODE))


def expanded(text: str) -> str:
    """LLVM IR from text that is in LLVM's own words and four more.

    `get` and `put` read and write a word of what a pointer points to, in words of 8 bytes; `for i
    to %n after label` and `end i` are a loop that the block `label` comes before.

    >>> print(expanded("%x = get ptr %block, 1"), end="")
    %x.at = getelementptr i64, ptr %block, i64 1
    %x = load ptr, ptr %x.at
    """
    lines: list[str] = []
    for line in text.splitlines():
        lines += _expanded(line.strip(), lines[-1] if lines else "", len(lines))
    return "\n".join(lines) + "\n"


def _expanded(line: str, before: str, serial: int) -> list[str]:
    """One line in LLVM's words."""
    if m := _GET.fullmatch(line):
        place = f"{m[1]}.at = getelementptr i64, ptr {m[3]}, i64 {m[4]}"
        return [place, f"{m[1]} = load {m[2]}, ptr {m[1]}.at"]
    if m := _PUT.fullmatch(line):
        place = f"%put.{serial} = getelementptr i64, ptr {m[3]}, i64 {m[4]}"
        return [place, f"store {m[1]} {m[2]}, ptr %put.{serial}"]
    if m := _FOR.fullmatch(line):
        i = m[1]
        return [
            f"br label %{i}.head",
            f"{i}.head:",
            f"%{i} = phi i64 [0, %{m[3]}], [%{i}.plus, %{i}.next]",
            f"%{i}.more = icmp slt i64 %{i}, {m[2]}",
            f"br i1 %{i}.more, label %{i}.body, label %{i}.done",
            f"{i}.body:",
        ]
    if m := _END.fullmatch(line):
        i = m[1]
        ended = before.startswith("br ")
        return [
            *([] if ended else [f"br label %{i}.next"]),
            f"{i}.next:",
            f"%{i}.plus = add i64 %{i}, 1",
            f"br label %{i}.head",
            f"{i}.done:",
        ]
    return [line]
