// CUDA's words for a host compiler. A block's threads are coroutines that run one after the other, each until it ends or
// exchanges with its warp; so all of a warp have given before any of them takes. Blocks run one after the other.
#pragma once

#include <math.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)

struct Words {
  unsigned x, y, z;
};
static Words threadIdx, blockIdx, gridDim;

using std::min;

template <class T>
static T __ldg(const T* place) { return *place; }

namespace stand_in {

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  static constexpr size_t kStack = 64 << 10;
  bool done = false;
  unsigned exchanges = 0;
  float given[2] = {};
};

static ucontext_t scheduler;
static std::vector<Thread> threads;
static std::function<void()> kernel;

static void enter() {
  kernel();
  threads[threadIdx.x].done = true;
}

static void run(const unsigned* grid, unsigned n, std::function<void()> body) {
  static std::mutex one_launch;
  std::lock_guard<std::mutex> lock(one_launch);
  kernel = std::move(body);
  threads.resize(n);
  gridDim = {grid[0], grid[1], grid[2]};
  for (unsigned block = 0; block < grid[0] * grid[1] * grid[2]; ++block) {
    blockIdx = {block % grid[0], block / grid[0] % grid[1], block / grid[0] / grid[1]};
    for (Thread& t : threads) {
      t.done = false;
      t.exchanges = 0;
      getcontext(&t.context);
      t.context.uc_stack.ss_sp = t.stack.get();
      t.context.uc_stack.ss_size = Thread::kStack;
      t.context.uc_link = &scheduler;
      makecontext(&t.context, enter, 0);
    }
    for (bool busy = true; busy;) {
      busy = false;
      for (unsigned i = 0; i < n; ++i) {
        if (threads[i].done) continue;
        busy = true;
        threadIdx = {i, 0, 0};
        swapcontext(&scheduler, &threads[i].context);
      }
    }
  }
}

}  // namespace stand_in

// A lane may be one exchange ahead of another, not more: hence two places for what it gives.
static float __shfl_xor_sync(unsigned, float value, int mask) {
  const unsigned me = threadIdx.x;
  stand_in::Thread& t = stand_in::threads[me];
  const unsigned turn = t.exchanges++;
  t.given[turn % 2] = value;
  swapcontext(&t.context, &stand_in::scheduler);
  const stand_in::Thread& other = stand_in::threads[me ^ mask];
  if (other.exchanges - turn - 1 > 1) {
    std::fprintf(stderr, "thread %u waits for thread %u, which does not exchange\n", me, me ^ mask);
    std::abort();
  }
  return other.given[turn % 2];
}
