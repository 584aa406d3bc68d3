// CUDA's words on the CPU: a grid's blocks run one after the other, and the threads of a block as
// fibers, each until it waits for the others (a barrier, or a shuffle of its warp).
//
// Threads take turns in the order of their numbers, or backwards: what a kernel gives must not
// depend on it. Threads of a block or warp that wait at different places are an error.
#pragma once
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(n)

namespace emulator {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

enum class State { ready, at_barrier, at_shuffle, done };

struct Fiber {
  State state = State::done;
  int line = 0;  // at which it waits
  bool begun = false;
  jmp_buf point;
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  unsigned long long given[2] = {};  // what it shows to the other lanes of its warp, in turn
  unsigned turn = 0;
};

inline constexpr unsigned warp = 32;
inline constexpr std::size_t stack_bytes = 1 << 16;

struct Machine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::function<void()> kernel;
  jmp_buf scheduler;
  unsigned current = 0, threads = 0;
  bool backwards = false;

  Fiber &fiber() { return *fibers[current]; }
};

inline Machine machine;

}  // namespace emulator

inline emulator::Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

[[noreturn]] inline void fail(const char *why) {
  std::fprintf(stderr, "emulator: %s\n", why);
  std::abort();
}

inline void wait(State state, int line) {
  Fiber &mine = machine.fiber();
  mine.state = state;
  mine.line = line;
  if (!_setjmp(mine.point)) _longjmp(machine.scheduler, 1);
}

inline void fiber_main() {
  for (;;) {
    machine.kernel();
    wait(State::done, 0);
  }
}

inline void resume(unsigned thread) {
  machine.current = thread;
  threadIdx.x = thread;
  Fiber &fiber = machine.fiber();
  if (_setjmp(machine.scheduler)) return;
  if (fiber.begun) _longjmp(fiber.point, 1);
  fiber.begun = true;
  setcontext(&fiber.context);
}

// Lets the threads in [first, last) go on if all of them wait in the same state at the same place.
inline bool released(unsigned first, unsigned last, State state) {
  unsigned waiting = 0;
  for (unsigned k = first; k < last; k++) waiting += machine.fibers[k]->state == state;
  if (waiting < last - first) return false;
  for (unsigned k = first; k < last; k++) {
    if (machine.fibers[k]->line != machine.fibers[first]->line) fail("threads at two barriers");
    machine.fibers[k]->state = State::ready;
  }
  return true;
}

inline void run_block() {
  const unsigned n = machine.threads;
  for (unsigned k = 0; k < n; k++) machine.fibers[k]->state = State::ready;
  for (;;) {
    for (unsigned k = 0; k < n; k++) {
      const unsigned thread = machine.backwards ? n - 1 - k : k;
      if (machine.fibers[thread]->state == State::ready) resume(thread);
    }
    bool any = released(0, n, State::at_barrier);
    for (unsigned k = 0; k < n; k += warp) any |= released(k, k + warp, State::at_shuffle);
    if (any) continue;
    for (unsigned k = 0; k < n; k++) {
      if (machine.fibers[k]->state != State::done) fail("a thread waits for one that does not come");
    }
    return;
  }
}

inline void prepare(unsigned threads) {
  while (machine.fibers.size() < threads) {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack = std::make_unique<char[]>(stack_bytes);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = stack_bytes;
    makecontext(&fiber->context, fiber_main, 0);
    machine.fibers.push_back(std::move(fiber));
  }
  machine.threads = threads;
}

template <class... A, std::size_t... I>
void launch(void (*kernel)(A...), unsigned blocks, unsigned threads, bool backwards, void **args,
            std::index_sequence<I...>) {
  if (threads % warp) fail("a block is no whole number of warps");
  std::tuple<A...> given(*static_cast<A *>(args[I])...);
  machine.kernel = [&] { std::apply(kernel, given); };
  machine.backwards = backwards;
  prepare(threads);
  gridDim.x = blocks;
  blockDim.x = threads;
  for (unsigned k = 0; k < blocks; k++) {
    blockIdx.x = backwards ? blocks - 1 - k : k;
    run_block();
  }
}

// Runs a kernel; `args` are pointers to its arguments, as for cudaLaunchKernel.
template <class... A>
void launch(void (*kernel)(A...), unsigned blocks, unsigned threads, bool backwards, void **args) {
  launch(kernel, blocks, threads, backwards, args, std::index_sequence_for<A...>());
}

template <class To, class From>
To same_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To found;
  std::memcpy(&found, &x, sizeof x);
  return found;
}

// What lane `from` of the warp gives. No lane gets further than its next shuffle before all have
// read, so two places to write to are enough.
template <class T>
T shuffled(unsigned mask, T value, unsigned from, int line) {
  if (mask != 0xffffffffu) fail("a shuffle of a part of a warp");
  Fiber &mine = machine.fiber();
  const unsigned turn = mine.turn++ % 2;
  std::memcpy(&mine.given[turn], &value, sizeof value);
  wait(State::at_shuffle, line);
  T found;
  const unsigned other = machine.current / warp * warp + from;
  std::memcpy(&found, &machine.fibers[other]->given[turn], sizeof found);
  return found;
}

inline unsigned lane_below(unsigned distance) {
  const unsigned lane = machine.current % warp;
  return lane + distance < warp ? lane + distance : lane;
}

}  // namespace emulator

#define __syncthreads() emulator::wait(emulator::State::at_barrier, __LINE__)
#define __shfl_sync(mask, value, lane) emulator::shuffled(mask, value, lane, __LINE__)
#define __shfl_down_sync(mask, value, distance) \
  emulator::shuffled(mask, value, emulator::lane_below(distance), __LINE__)

inline int __float_as_int(float x) { return emulator::same_bits<int>(x); }
inline float __int_as_float(int x) { return emulator::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulator::same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator::same_bits<double>(x); }
