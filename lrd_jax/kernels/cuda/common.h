// Functions that the generated steps of cells call.

DEVICE float exp_(float x) { return exp2_(x * 1.4426950408889634f); }
DEVICE float sigmoid_(float x) { return rcp_(1.f + exp2_(x * -1.4426950408889634f)); }
DEVICE float tanh_(float x) {  // to a few units in the last place near 0 too: a polynomial there
  const float x2 = x * x;
  const float small = x * (1.f + x2 * (-0.33333333f + x2 * (0.13333331f
                      + x2 * (-0.05396825f + x2 * 0.02186949f))));
  const float large = 2.f * rcp_(1.f + exp2_(x * -2.8853900817779268f)) - 1.f;
  return x2 < 0.1225f ? small : large;
}

// Where a thread stands: it has one unit, g-th of its warp's eight, of two rows of the batch.
struct Place {
  int warp, g, row;  // row of the tile, of the step that is computed
  bool live;         // whether there is such a unit
  float* scratch;    // [8][WARPS] of shared memory
};

// Over the units of a row. Every thread of the block has to call these.
template <typename Combine>
DEVICE float over_units_(const Place& at, float x, float neutral, Combine combine) {
  x = at.live ? x : neutral;
  UNROLL
  for (int by = 4; by < 32; by *= 2) x = combine(x, shuffle_xor_(x, by));
  if (at.g == 0) at.scratch[at.row * WARPS + at.warp] = x;
  BARRIER;
  x = neutral;
  for (int w = 0; w < WARPS; w++) x = combine(x, at.scratch[at.row * WARPS + w]);
  BARRIER;  // the scratch may be written again
  return x;
}
DEVICE float unit_sum_(const Place& at, float x) {
  return over_units_(at, x, 0.f, [](float a, float b) { return a + b; });
}
DEVICE float unit_max_(const Place& at, float x) {
  return over_units_(at, x, -3.402823466e38f, [](float a, float b) { return fmaxf(a, b); });
}
// Sum over the units up to this one, or from it on.
DEVICE float unit_cumsum_(const Place& at, float x, bool from_here) {
  x = at.live ? x : 0.f;
  UNROLL
  for (int by = 1; by < 8; by *= 2) {
    const float other = from_here ? shuffle_down_(x, 4 * by) : shuffle_up_(x, 4 * by);
    if (from_here ? at.g + by < 8 : at.g >= by) x += other;
  }
  if (at.g == (from_here ? 0 : 7)) at.scratch[at.row * WARPS + at.warp] = x;
  BARRIER;
  float others = 0.f;
  for (int w = 0; w < WARPS; w++)
    if (from_here ? w > at.warp : w < at.warp) others += at.scratch[at.row * WARPS + w];
  BARRIER;
  return x + others;
}

// The largest number of all threads of the block; not negative. `place` has WARPS numbers.
DEVICE float block_max_(float* place, int thread, float x) {
  UNROLL
  for (int by = 1; by < 32; by *= 2) x = fmaxf(x, shuffle_xor_(x, by));
  if (thread % 32 == 0) place[thread / 32] = x;
  BARRIER;
  for (int w = 0; w < WARPS; w++) x = fmaxf(x, place[w]);
  BARRIER;
  return x;
}
// The power of two that takes a number, not negative, to [1, 2). Its inverse is normal, too.
DEVICE float power_above_(float x) {
  const int exponent = 254 - (bits_(x) >> 23);
  return float_((exponent < 1 ? 1 : exponent > 253 ? 253 : exponent) << 23);
}
