// A recurrence over all of time in one launch, forward and backward.
//
// A block of threads owns a tile: 8 rows of the batch of one member, for all steps. Grid: tiles x
// members. Nothing passes between blocks, and the weights stay in registers. A warp owns 8 units: its
// thread 4 g + q has unit g of them, of the rows 2 q and 2 q + 1 of the tile, with all of their gates,
// so that a step of the cell needs no other thread.
//
// UNITS, GATES (blocks of UNITS pre-activations), FIELDS (of the state), ENTERING (fields that enter
// the product; `entering(p)` is the p-th), STEPS, ROWS (of the batch), and what a call is like:
// CONTROLS (bits of masks by row), SKIPS, KEEP, EVERY (bits), BIAS, NARROW. Arrays have member, time, row, unit in this order.
// With NARROW, a few features, `input` has these, and pre-activations are made of them here; else it
// has what the input gives to the pre-activations.

enum { BLOCK_H = 1, BLOCK_C = 2, CUT = 4, HOLD = 8, RESET = 16 };  // of a byte of `mask`
enum { PACKED = GATES * UNITS };
enum { KT = (UNITS + 15) / 16, MT = (GATES + 1) / 2 };  // tiles along units; pairs of gates
enum { KB = (PACKED + 31) / 32 };                      // tiles along half of the pre-activations
enum { MOST_NARROW = 4 };

// What the input gives to the pre-activations of two rows, in registers from one step to the next.
struct Input {
  float zx[2][GATES], x[2][MOST_NARROW];
  const float* weights;  // of the input in shared memory, [NARROW + 1][PACKED], the bias last
  int unit;

  // Where `place` is free; a barrier has to follow.
  IN_CLASS Input(float* place, const float* w, const float* bias, long member, int thread, int unit)
      : weights(place), unit(unit) {
    for (int i = thread; NARROW && i < (NARROW + 1) * PACKED; i += THREADS)
      place[i] = i < NARROW * PACKED ? w[member * NARROW * PACKED + i]
                                     : bias[member * PACKED + i - NARROW * PACKED];
  }
  IN_CLASS static int width() { return NARROW ? NARROW : PACKED; }
  IN_CLASS void load(int j, const float* input, int row) {
    UNROLL
    for (int i = 0; i < NARROW; i++) x[j][i] = input[row * NARROW + i];
    if (!NARROW) UNROLL for (int k = 0; k < GATES; k++)
      zx[j][k] = input[row * PACKED + k * UNITS + unit];
  }
  IN_CLASS void get(int j, float* z) const {
    UNROLL
    for (int k = 0; k < GATES; k++) {
      z[k] = NARROW ? weights[NARROW * PACKED + k * UNITS + unit] : zx[j][k];
      UNROLL
      for (int i = 0; i < NARROW; i++) z[k] += x[j][i] * weights[i * PACKED + k * UNITS + unit];
    }
  }
};

// Pre-activations of a step: z^T = U^T h^T. A tile of the product has 16 rows, gate 2 m of the warp's
// 8 units and then gate 2 m + 1 of the same, and 8 columns, the rows of the batch. What enters the
// product goes through two buffers, of which one is read while the other is written: one barrier a step.
KERNEL(FORWARD)(FORWARD_PARAMETERS) {
  SHARED
  u16* const entering_h = (u16*)shared;  // [2][8][H_STRIDE], each field padded to KT tiles
  const int thread = THREAD, warp = thread >> 5, lane = thread & 31, g = lane >> 2, q = lane & 3;
  const int unit = warp * 8 + g;
  const bool live = UNITS % 16 == 0 || unit < UNITS;
  const long row0 = TILE * 8, member = MEMBER;
  const float* init[FIELDS] = {INIT};
  const float* start[FIELDS] = {START};
  float* before[FIELDS] = {BEFORE};
  float* after[FIELDS] = {AFTER};
  float* last[FIELDS] = {LAST};
  float* const scratch = (float*)(shared + 2 * 8 * H_STRIDE * 2);  // [8][WARPS]

  weights += member * ENTERING * UNITS * PACKED;
  u32 a[MT][ENTERING * KT][4];
  UNROLL
  for (int m = 0; m < MT; m++) UNROLL for (int k = 0; k < ENTERING * KT; k++) UNROLL
    for (int r = 0; r < 4; r++) {
      const int gate = 2 * m + (r & 1), from = k % KT * 16 + 2 * q + (r >> 1) * 8;
      const float* const w =
          weights + (long)(k / KT * UNITS + from) * PACKED + gate * UNITS + unit;
      const bool here = gate < GATES && live;
      a[m][k][r] = pack_(here && from < UNITS ? w[0] : 0.f,
                         here && from + 1 < UNITS ? w[PACKED] : 0.f);
    }
  float b[GATES];
  UNROLL
  for (int k = 0; k < GATES; k++)
    b[k] = BIAS && live ? bias[member * PACKED + k * UNITS + unit] : 0.f;

  for (int i = thread; i < 2 * 8 * H_STRIDE; i += THREADS) entering_h[i] = 0;
  Input in(scratch + 8 * WARPS, input_weights, input_bias, member, thread,
           live ? unit : UNITS - 1);
  BARRIER;
  // Rows and units that are not there repeat the last one: loads stay within bounds, stores are left
  // out. Indices within one step of the states and of the pre-activations; pointers go with time.
  bool here[2];
  int row[2], at[2], packed[2];
  UNROLL
  for (int j = 0; j < 2; j++) {
    row[j] = (int)row0 + 2 * q + j;
    here[j] = live && (ROWS % 8 == 0 || row[j] < ROWS);
    row[j] = ROWS % 8 == 0 || row[j] < ROWS ? row[j] : ROWS - 1;
    at[j] = row[j] * UNITS + (live ? unit : UNITS - 1);
    packed[j] = row[j] * PACKED + (live ? unit : UNITS - 1);
  }
  const long state_step = (long)ROWS * UNITS, packed_step = (long)ROWS * PACKED;
  const long input_step = (long)ROWS * Input::width();
  input += member * STEPS * input_step;
  if (KEEP) kept += member * STEPS * packed_step;
  if (CONTROLS) mask += member * STEPS * ROWS;
  UNROLL
  for (int i = 0; i < FIELDS; i++) {
    init[i] += member * state_step;
    before[i] += member * STEPS * state_step;
    last[i] += member * state_step;
    if (CONTROLS & RESET) {
      start[i] += member * state_step;
      after[i] += member * STEPS * state_step;
    }
  }

  float s[2][FIELDS];
  int now[2], next[2];  // masks of this step and of the one to come
  // The state as it enters a step: put back where the mask says so, stored, handed to the product.
  auto enter = [&](int t, int j, const float* state) {
    UNROLL
    for (int i = 0; i < FIELDS; i++) {
      s[j][i] = state[i];
      if ((CONTROLS & RESET) && (next[j] & RESET)) s[j][i] = start[i][at[j]];
      if (here[j]) before[i][at[j]] = s[j][i];
    }
    UNROLL
    for (int p = 0; p < ENTERING; p++)
      if (live)
        entering_h[((t & 1) * 8 + 2 * q + j) * H_STRIDE + p * KT * 16 + unit] =
            half_(s[j][entering(p)]);
    in.load(j, input, row[j]);
  };
  UNROLL
  for (int j = 0; j < 2; j++) {
    float first[FIELDS];
    UNROLL
    for (int i = 0; i < FIELDS; i++) first[i] = init[i][at[j]];
    next[j] = CONTROLS ? mask[row[j]] : 0;
    enter(0, j, first);
  }
  BARRIER;

#pragma unroll 1
  for (int t = 0; t < STEPS; t++) {
    // `input`, `before` and `mask` are of the step to come, `kept` and `after` of this one.
    input += input_step;
    UNROLL
    for (int i = 0; i < FIELDS; i++) before[i] += state_step;
    if (CONTROLS) mask += ROWS;
    UNROLL
    for (int j = 0; j < 2; j++) {
      now[j] = next[j];
      if (CONTROLS && t + 1 < STEPS) next[j] = mask[row[j]];
    }
    float sum[MT][2][4];  // by turns, so that a product need not wait for the one before
    UNROLL
    for (int m = 0; m < MT; m++) UNROLL for (int c = 0; c < 2; c++) UNROLL
      for (int r = 0; r < 4; r++) sum[m][c][r] = 0.f;
    UNROLL
    for (int k = 0; k < ENTERING * KT; k++) {
      const u32* const h = (const u32*)(entering_h + ((t & 1) * 8 + g) * H_STRIDE + k * 16 + 2 * q);
      const u32 low = h[0], high = h[4];
      UNROLL
      for (int m = 0; m < MT; m++) product(sum[m][k & 1], a[m][k], low, high);
    }
    UNROLL
    for (int j = 0; j < 2; j++) {
      float z[GATES], zx[GATES], o[FIELDS];
      in.get(j, zx);
      UNROLL
      for (int k = 0; k < GATES; k++) {
        const int r = (k & 1) * 2 + j;
        z[k] = sum[k / 2][0][r] + sum[k / 2][1][r];
        if (BIAS) z[k] += b[k];
        if (ADDITIVE) z[k] += zx[k];
        if (KEEP && here[j]) kept[packed[j] + k * UNITS] = z[k];
      }
      const Place place = {warp, g, 2 * q + j, live, scratch};
      forward_step(place, s[j], zx, z, o);
      UNROLL
      for (int i = 0; i < FIELDS; i++) {
        if ((CONTROLS & HOLD) && (now[j] & HOLD)) o[i] = s[j][i];
        if ((CONTROLS & RESET) && here[j]) after[i][at[j]] = o[i];
        if (t + 1 == STEPS && here[j]) last[i][at[j]] = o[i];
      }
      if (t + 1 < STEPS) enter(t + 1, j, o);
    }
    if (KEEP) kept += packed_step;
    if (CONTROLS & RESET) UNROLL for (int i = 0; i < FIELDS; i++) after[i] += state_step;
    BARRIER;
  }
}

// From the last step to the first. A thread has the gradient of its units' state; dz goes through
// shared memory to the product dh = U dz. A tile of that has 16 rows, units of a pair of warps, which
// halve its sum: each hands half of its part over. Where no row of the tile wants dh there is neither
// product nor barrier; so the two buffers change places with every product, not with every step.
KERNEL(BACKWARD)(BACKWARD_PARAMETERS) {
  SHARED
  u16* const dz_h = (u16*)shared;                           // [2][8][Z_STRIDE]
  float* const parts = (float*)(shared + 2 * 8 * Z_STRIDE * 2);  // [WARPS][32][ENTERING][2]
  float* const scratch = parts + WARPS * 32 * ENTERING * 2;
  const int thread = THREAD, warp = thread >> 5, lane = thread & 31, g = lane >> 2, q = lane & 3;
  const int unit = warp * 8 + g, half = warp & 1, pair = warp >> 1;
  const bool live = UNITS % 16 == 0 || unit < UNITS;
  const long row0 = TILE * 8, member = MEMBER;
  const float* before[FIELDS] = {BEFORE};
  const float* const d_last[FIELDS] = {D_LAST};
  const float* d_every[FIELDS] = {D_EVERY};
  float* const d_init[FIELDS] = {D_INIT};
  float* const d_start[FIELDS] = {D_START};

  weights += member * ENTERING * UNITS * PACKED;
  u32 a[ENTERING][KB][4];
  UNROLL
  for (int p = 0; p < ENTERING; p++) UNROLL for (int k = 0; k < KB; k++) UNROLL
    for (int r = 0; r < 4; r++) {
      const int row = pair * 16 + g + (r & 1) * 8;
      const int from = (half * KB + k) * 16 + 2 * q + (r >> 1) * 8;
      const float* const w = weights + (long)(p * UNITS + row) * PACKED + from;
      a[p][k][r] = pack_(row < UNITS && from < PACKED ? w[0] : 0.f,
                         row < UNITS && from + 1 < PACKED ? w[1] : 0.f);
    }
  for (int i = thread; i < 2 * 8 * Z_STRIDE; i += THREADS) dz_h[i] = 0;
  Input in(scratch + 8 * WARPS, input_weights, input_bias, member, thread,
           live ? unit : UNITS - 1);
  BARRIER;
  bool here[2];
  int row[2], at[2], packed[2];  // of a row and unit in a state and in the pre-activations of one step
  float e[2][FIELDS], to_start[2][FIELDS];
  UNROLL
  for (int j = 0; j < 2; j++) {
    row[j] = (int)row0 + 2 * q + j;
    here[j] = live && (ROWS % 8 == 0 || row[j] < ROWS);
    row[j] = ROWS % 8 == 0 || row[j] < ROWS ? row[j] : ROWS - 1;
    at[j] = row[j] * UNITS + (live ? unit : UNITS - 1);
    packed[j] = row[j] * PACKED + (live ? unit : UNITS - 1);
    UNROLL
    for (int i = 0; i < FIELDS; i++) {
      e[j][i] = d_last[i][member * ROWS * UNITS + at[j]];
      to_start[j][i] = 0.f;
    }
  }
  // For the range of fp16 products see dz times a power of two, which takes the largest gradient that
  // comes in to [1, 2): of the tile where all come at the last step, else of the member.
  float most = 0.f;
  if (EVERY) {
    most = largest[member];
  } else {
    UNROLL
    for (int j = 0; j < 2; j++) UNROLL for (int i = 0; i < FIELDS; i++)
      most = fmaxf(most, fabsf(e[j][i]));
    most = block_max_(scratch, thread, most);
  }
  const float up = power_above_(most), down = 1.f / up;

  // Pointers go back with time. Loads run one step ahead of their use.
  const long state_step = (long)ROWS * UNITS, packed_step = (long)ROWS * PACKED;
  const long input_step = (long)ROWS * Input::width();
  auto move = [&](long steps) {
    UNROLL
    for (int i = 0; i < FIELDS; i++) {
      before[i] += steps * state_step;
      if (EVERY >> i & 1) d_every[i] += steps * state_step;
    }
    kept += steps * packed_step;
    dz += steps * packed_step;
    if (!ADDITIVE) {
      input += steps * input_step;
      d_input += steps * packed_step;
    }
    if (CONTROLS) mask += steps * ROWS;
    if (SKIPS) skip += steps * TILES;
  };
  float z_[2][GATES], s_[2][FIELDS], d_[2][FIELDS];
  int mask_[2], skip_ = 0;
  auto load = [&]() {
    UNROLL
    for (int j = 0; j < 2; j++) {
      UNROLL
      for (int k = 0; k < GATES; k++) z_[j][k] = kept[packed[j] + k * UNITS];
      if (!ADDITIVE) in.load(j, input, row[j]);
      UNROLL
      for (int i = 0; i < FIELDS; i++) {
        s_[j][i] = before[i][at[j]];
        d_[j][i] = EVERY >> i & 1 ? d_every[i][at[j]] : 0.f;
      }
      mask_[j] = CONTROLS ? mask[row[j]] : 0;
    }
    if (SKIPS) skip_ = skip[TILE];
  };
  move(member * STEPS + STEPS - 1);
  load();
  int buffer = 0;

#pragma unroll 1
  for (int t = STEPS - 1; t >= 0; t--) {
    const bool skipped = skip_;
    // Written without a product too: to the buffer that the last product has not read.
    u16* const out = dz_h + buffer * 8 * Z_STRIDE;
    float held[2][FIELDS];
    int now[2];
    UNROLL
    for (int j = 0; j < 2; j++) {
      float zx[GATES], ds[FIELDS], dzx[GATES], dzh[GATES];
      if (!ADDITIVE) in.get(j, zx);
      now[j] = mask_[j];
      UNROLL
      for (int i = 0; i < FIELDS; i++) {
        if (EVERY >> i & 1) e[j][i] += d_[j][i];
        held[j][i] = e[j][i];
        if ((CONTROLS & HOLD) && (now[j] & HOLD)) e[j][i] = 0.f;
      }
      const Place place = {warp, g, 2 * q + j, live, scratch};
      backward_step(place, s_[j], zx, z_[j], e[j], ds, dzx, dzh);
      UNROLL
      for (int k = 0; k < GATES; k++) {
        if (here[j]) dz[packed[j] + k * UNITS] = dzh[k];
        if (here[j] && !ADDITIVE) d_input[packed[j] + k * UNITS] = dzx[k];
        if (live) out[(2 * q + j) * Z_STRIDE + k * UNITS + unit] = half_(dzh[k] * up);
      }
      UNROLL
      for (int i = 0; i < FIELDS; i++) e[j][i] = ds[i];
      if ((CONTROLS & BLOCK_C) && (now[j] & BLOCK_C)) e[j][MEMORY] = 0.f;
    }
    if (t) {
      move(-1);
      load();
    }
    if (!skipped) {
      BARRIER;
      buffer ^= 1;
      float sum[ENTERING][2][4];
      UNROLL
      for (int p = 0; p < ENTERING; p++) UNROLL for (int c = 0; c < 2; c++) UNROLL
        for (int r = 0; r < 4; r++) sum[p][c][r] = 0.f;
      UNROLL
      for (int k = 0; k < KB; k++) {
        const u32* const z = (const u32*)(out + g * Z_STRIDE + (half * KB + k) * 16 + 2 * q);
        UNROLL
        for (int p = 0; p < ENTERING; p++) product(sum[p][k & 1], a[p][k], z[0], z[4]);
      }
      // The first warp of a pair keeps the upper 8 rows of the tile, the other the lower 8.
      UNROLL
      for (int p = 0; p < ENTERING; p++) UNROLL for (int j = 0; j < 2; j++)
        parts[((warp * 32 + lane) * ENTERING + p) * 2 + j] =
            half ? sum[p][0][j] + sum[p][1][j] : sum[p][0][2 + j] + sum[p][1][2 + j];
      pair_barrier(pair);
      UNROLL
      for (int p = 0; p < ENTERING; p++) UNROLL for (int j = 0; j < 2; j++) {
        const float own = half ? sum[p][0][2 + j] + sum[p][1][2 + j] : sum[p][0][j] + sum[p][1][j];
        const float theirs = parts[(((warp ^ 1) * 32 + lane) * ENTERING + p) * 2 + j];
        if (!((CONTROLS & BLOCK_H) && (now[j] & BLOCK_H))) e[j][entering(p)] += (own + theirs) * down;
      }
    }
    if (CONTROLS & (HOLD | CUT | RESET)) UNROLL for (int j = 0; j < 2; j++) UNROLL
      for (int i = 0; i < FIELDS; i++) {
        if ((CONTROLS & HOLD) && (now[j] & HOLD)) e[j][i] = held[j][i];
        if ((CONTROLS & CUT) && (now[j] & CUT)) e[j][i] = 0.f;
        if ((CONTROLS & RESET) && (now[j] & RESET)) {
          to_start[j][i] += e[j][i];
          e[j][i] = 0.f;
        }
      }
  }
  UNROLL
  for (int j = 0; j < 2; j++) UNROLL for (int i = 0; i < FIELDS; i++) if (here[j]) {
    d_init[i][member * ROWS * UNITS + at[j]] = e[j][i];
    if (CONTROLS & RESET) d_start[i][member * ROWS * UNITS + at[j]] = to_start[j][i];
  }
}
