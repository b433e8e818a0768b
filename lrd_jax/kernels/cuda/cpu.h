// What a recurrence asks of a GPU, on a CPU: every thread of a block is a fiber, and barriers, shuffles
// and tensor cores are emulated, for tests. The order in which fibers run is an argument, so that a
// barrier that lacks shows as numbers that depend on it. Same names as gpu.h.
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
#define DEVICE static inline
#define IN_CLASS inline
#define UNROLL
#define KERNEL(name) static void name
#define SHARED u8* const shared = block_.shared;
#define THREAD (fiber_->thread)
#define TILE (block_.tile)
#define MEMBER (block_.member)
#define BARRIER block_.all.wait(THREADS)
#define RESTRICT

// What a GPU's source has as constants is an argument here: one library serves all calls of a cell.
static int STEPS, ROWS, CONTROLS, SKIPS, KEEP, EVERY, BIAS, NARROW, BFLOAT16;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  int thread;
  bool done;
  int waits_for;  // the generation of the block's barrier that it waits for the end of, or -1
};
static Fiber* fiber_;
static ucontext_t main_;
static void let_others_run_() { swapcontext(&fiber_->context, &main_); }

struct Barrier {
  int count = 0, generation = 0;
  void wait(int threads) {
    const int own = generation;
    if (++count == threads) {
      count = 0;
      generation++;
    }
    fiber_->waits_for = this->of_block ? own : -1;
    while (generation == own) let_others_run_();
    fiber_->waits_for = -1;
  }
  bool of_block = false;
};
struct Block {
  u8* shared;
  long tile, member;
  Barrier all, pairs[WARPS], warps[WARPS];
} static block_;
DEVICE void pair_barrier(int pair) { block_.pairs[pair].wait(64); }

// What the lanes of a warp show each other, in two places by turns: who is one exchange ahead of the
// slowest lane writes to the other place, and nobody can be further.
struct Shown {
  u32 words[6];
};
static Shown shown_[2][WARPS][32];
static int turn_[THREADS];
DEVICE const Shown* exchange_(const Shown& own) {
  const int thread = THREAD, warp = thread / 32, turn = turn_[thread]++ & 1;
  shown_[turn][warp][thread % 32] = own;
  block_.warps[warp].wait(32);
  return shown_[turn][warp];
}
DEVICE float shuffle_(float x, int from) {
  Shown own = {};
  std::memcpy(own.words, &x, 4);
  const Shown* all = exchange_(own);
  std::memcpy(&x, all[from < 0 || from > 31 ? THREAD % 32 : from].words, 4);
  return x;
}
DEVICE float shuffle_xor_(float x, int mask) { return shuffle_(x, THREAD % 32 ^ mask); }
DEVICE float shuffle_up_(float x, int by) { return shuffle_(x, THREAD % 32 - by); }
DEVICE float shuffle_down_(float x, int by) { return shuffle_(x, THREAD % 32 + by); }

DEVICE int bits_(float x) {
  int bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
DEVICE float float_(int bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
DEVICE float exp2_(float x) { return exp2f(x); }
DEVICE float rcp_(float x) { return 1.f / x; }
DEVICE u16 half_(float x) {
  u16 y;
  if (BFLOAT16) {
    u32 bits;
    std::memcpy(&bits, &x, 4);
    y = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    if (std::isnan(x)) y = 0x7fff;
  } else {
    const _Float16 half = (_Float16)(x > 65504.f ? 65504.f : x < -65504.f ? -65504.f : x);
    std::memcpy(&y, &half, 2);
  }
  return y;
}
DEVICE u32 pack_(float low, float high) { return (u32)half_(low) | ((u32)half_(high) << 16); }
DEVICE float wide_(u32 x) {
  float y;
  if (BFLOAT16) {
    x <<= 16;
    std::memcpy(&y, &x, 4);
  } else {
    _Float16 half;
    const u16 bits = x;
    std::memcpy(&half, &bits, 2);
    y = half;
  }
  return y;
}

// m16n8k16 as the PTX ISA spreads it over lanes 4 g + q. a: rows g, g + 8, columns 2 q and 2 q + 1,
// then the same 8 columns on; b: rows 2 q and 2 q + 1, then 8 rows on, column g; c: rows g, g, g + 8,
// g + 8, columns 2 q, 2 q + 1, 2 q, 2 q + 1.
DEVICE void product(float* c, const u32* a, u32 b0, u32 b1) {
  const Shown* all = exchange_({a[0], a[1], a[2], a[3], b0, b1});
  const int g = THREAD % 32 / 4, q = THREAD % 4;
  for (int r = 0; r < 4; r++) {
    float sum = 0.f;
    for (int k = 0; k < 16; k++) {
      const u32 x = all[g * 4 + k % 8 / 2].words[(r >> 1) + k / 8 * 2] >> k % 2 * 16 & 0xffff;
      const u32 y = all[(2 * q + (r & 1)) * 4 + k % 8 / 2].words[4 + k / 8] >> k % 2 * 16 & 0xffff;
      sum += wide_(x) * wide_(y);
    }
    c[r] += sum;
  }
}
