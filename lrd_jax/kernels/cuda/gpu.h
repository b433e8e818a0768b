// What the recurrence asks of a GPU. cpu.h has the same names for tests on a CPU.
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
#define DEVICE __device__ __forceinline__
#define IN_CLASS DEVICE
#define UNROLL _Pragma("unroll")
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(THREADS, 1) name
#define SHARED extern __shared__ __align__(16) u8 shared[];
#define THREAD ((int)threadIdx.x)
#define TILE ((long)blockIdx.x)
#define MEMBER ((long)blockIdx.y)
#define BARRIER __syncthreads()
#define RESTRICT __restrict__

// A barrier of two neighbouring warps; barrier 0 is that of the block.
DEVICE void pair_barrier(int pair) { asm volatile("bar.sync %0, 64;" ::"r"(pair + 1) : "memory"); }

DEVICE float shuffle_xor_(float x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
DEVICE float shuffle_up_(float x, int by) { return __shfl_up_sync(~0u, x, by); }
DEVICE float shuffle_down_(float x, int by) { return __shfl_down_sync(~0u, x, by); }

DEVICE int bits_(float x) { return __float_as_int(x); }
DEVICE float float_(int bits) { return __int_as_float(bits); }

DEVICE float exp2_(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float rcp_(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#if BFLOAT16
#define OPERAND "bf16"
#define TO_OPERANDS "cvt.rn.bf16x2.f32"  // has the range of float
#else
#define OPERAND "f16"
#define TO_OPERANDS "cvt.rn.satfinite.f16x2.f32"
#endif

// Two operands of a product, rounded to the nearest: what is too large becomes the largest.
DEVICE u32 pack_(float low, float high) {
  u32 y;
  asm(TO_OPERANDS " %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
DEVICE u16 half_(float x) { return (u16)pack_(x, 0.f); }

// c (16 x 8) += a (16 x 16) b (16 x 8), spread over a warp as the PTX ISA says.
DEVICE void product(float* c, const u32* a, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." OPERAND "." OPERAND
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
