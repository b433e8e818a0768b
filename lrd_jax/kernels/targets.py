"""GPUs that programs can be compiled for without having one, as XLA wants them described.

The numbers are NVIDIA's: the CUDA C++ programming guide's table of technical specifications per
compute capability, and the data sheet of one product of each.
"""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """A GPU.

    Attributes:
      name: as its driver gives it.
      capability: major and minor compute capability.
      multiprocessors: how many.
      threads: that a multiprocessor holds at a time.
      fp32_units: float32 units of a multiprocessor.
      shared_kib: shared memory of a multiprocessor; a block may have 1 KiB less.
      l2_mib: level 2 cache.
      memory_gib: memory of the device.
      bandwidth_gb: memory bandwidth, GB/s.
      clock_ghz: boost clock.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    threads: int
    fp32_units: int
    shared_kib: int
    l2_mib: int
    memory_gib: int
    bandwidth_gb: int
    clock_ghz: float

    def description(self) -> str:
        """The text of XLA's `GpuTargetConfigProto`."""
        major, minor = self.capability
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024 threads_per_warp: 32
              shared_memory_per_block: {48 << 10}
              shared_memory_per_core: {self.shared_kib << 10}
              shared_memory_per_block_optin: {(self.shared_kib - 1) << 10}
              threads_per_core_limit: {self.threads} core_count: {self.multiprocessors}
              fpus_per_core: {self.fp32_units}
              block_dim_limit_x: {2**31 - 1} block_dim_limit_y: 65535 block_dim_limit_z: 65535
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
              memory_bandwidth: {self.bandwidth_gb * 10**9} l2_cache_size: {self.l2_mib << 20}
              clock_rate_ghz: {self.clock_ghz} device_memory_size: {self.memory_gib << 30}
              cuda_compute_capability {{ major: {major} minor: {minor} }}
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: 9 minor: 12 }}
            runtime_version {{ major: 13 minor: 0 patch: 0 }}
            device_description_str: "{self.name}"
        """


TARGETS = {
    "sm_90a": Target("NVIDIA H100 80GB HBM3", (9, 0), 132, 2048, 128, 228, 50, 79, 3352, 1.98),
    "sm_80": Target("NVIDIA A100-SXM4-80GB", (8, 0), 108, 2048, 64, 164, 40, 79, 2039, 1.41),
    "sm_86": Target("NVIDIA RTX A6000", (8, 6), 84, 1536, 128, 100, 6, 47, 768, 1.80),
    "sm_89": Target("NVIDIA L40S", (8, 9), 142, 1536, 128, 100, 96, 44, 864, 2.52),
    "sm_120": Target("NVIDIA GeForce RTX 5090", (12, 0), 170, 1536, 128, 100, 96, 31, 1792, 2.41),
}
