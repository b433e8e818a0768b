// Runs a kernel of recurrence.h on the CPU, block by block.
static void** arguments_;
static int backward_;
static void call_() {
  void** const a = arguments_;
  if (backward_)
    BACKWARD(BACKWARD_ARGUMENTS);
  else
    FORWARD(FORWARD_ARGUMENTS);
}
static void entry_() {
  call_();
  fiber_->done = true;
  let_others_run_();
}
static bool run_(Fiber& fiber) {  // until it waits; whether it ended
  fiber_ = &fiber;
  swapcontext(&main_, &fiber.context);
  return fiber.done;
}

// order: 0 by number, 1 backwards, above 1 shuffled anew by this seed in every round, below 0 each
// pair of warps as far ahead as barriers let it, in an order that goes round by this number.
extern "C" void run(int backward, void** arguments, int members, int shared, int order,
                    const int* call) {
  STEPS = call[0], ROWS = call[1], CONTROLS = call[2], SKIPS = call[3], KEEP = call[4];
  EVERY = call[5], BIAS = call[6], NARROW = call[7], BFLOAT16 = call[8];
  backward_ = backward, arguments_ = arguments;
  std::vector<u8> memory(shared + 64);
  std::mt19937 random(order);
  std::vector<Fiber> fibers(THREADS);
  for (Fiber& fiber : fibers) fiber.stack.resize(1 << 16);
  std::vector<int> turns(THREADS);
  for (int i = 0; i < THREADS; i++) turns[i] = order == 1 ? THREADS - 1 - i : i;
  for (long member = 0; member < members; member++) for (long tile = 0; tile < TILES; tile++) {
    std::fill(memory.begin(), memory.end(), 0xff);  // NaN: what is read before it is written shows
    block_ = Block();
    block_.all.of_block = true;
    block_.shared = (u8*)(((uintptr_t)memory.data() + 63) & ~(uintptr_t)63);
    block_.tile = tile, block_.member = member;
    for (int i = 0; i < THREADS; i++) {
      Fiber& fiber = fibers[i];
      fiber.thread = i, fiber.done = false, fiber.waits_for = -1;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, entry_, 0);
    }
    int left = THREADS, round = 0;
    while (left) {
      round++;
      if (order > 1) std::shuffle(turns.begin(), turns.end(), random);
      if (order >= 0) {
        for (int i : turns)
          if (!fibers[i].done) left -= run_(fibers[i]);
        continue;
      }
      const int pairs = THREADS / 64;
      for (int p = 0; p < pairs; p++) {
        const int first = (p - round * order) % pairs * 64;
        for (bool moves = true; moves;) {
          moves = false;
          for (int i = first; i < first + 64; i++) {
            Fiber& fiber = fibers[i];
            if (fiber.done || fiber.waits_for == block_.all.generation) continue;
            left -= run_(fiber);
            moves = true;
          }
        }
      }
    }
  }
}
