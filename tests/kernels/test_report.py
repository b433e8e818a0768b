"""What is read from XLA's own files about a compiled program."""

import stat
import types

import pytest

from lrd_jax.kernels import report

# As JAX 0.10.1 and 0.12 write it: a loop, and a loop with another one inside.
SEQUENCE = """\
001: kCustomKernel [source        | next=008 (7) ] fill grid: [64, 1, 1] threads: [128, 1, 1]\
  shared_memory: 0 bytes
002: kCopy         [source        | next=005 (1) ] MemcpyDeviceToDeviceCmd
003: kWhile        [prev=002 (1)  | next=016 (1) ]\x20\x20\x20
condition:
    004: kCustomKernel [source | sink] compare grid: [1, 1, 1] threads: [1, 1, 1]\
  shared_memory: 0 bytes
  body:
    005: kAsyncStart   [source       | next=018 (5)] stream=computation_stream[0], async_id=9
        007: kDynamicSliceFusion [source | sink] params=1, results=1
            006: kCopy [source | sink] kCopy
    008: kKernel       [source       | next=013 (1)] kernel=gemm_0, profile_annotation=gemm.0,\
 launch dimensions=blocks: {256, 1, 1}, threads/block: {64, 1, 1}, cluster_dim=nullopt
    009: kAsyncDone    [source       | sink        ] async_id=9
010: kGemm         [prev=003 (1)  | next=016 (1) ] (no description)
011: kWhile        [prev=010 (1)  | next=016 (1) ]\x20\x20\x20
condition:
    012: kCustomKernel [source | sink] compare grid: [1, 1, 1] threads: [1, 1, 1]\
  shared_memory: 0 bytes
  body:
    013: kCustomKernel [source       | next=018 (3)] fill grid: [2, 1, 1] threads: [128, 1, 1]\
  shared_memory: 1024 bytes
    014: kWhile        [prev=066 (2) | next=076 (1)]\x20\x20\x20\x20\x20\x20\x20
condition:
        015: kCustomKernel [source | sink] compare grid: [1, 1, 1] threads: [1, 1, 1]\
  shared_memory: 0 bytes
      body:
        000: kCommandBuffer [source | sink]\x20
            016: kCustomKernel [source       | next=071 (1)] inner grid: [2, 1, 1]\
 threads: [128, 1, 1]  shared_memory: 0 bytes
            017: kMemzero      [source       | next=071 (1)] (no description)
    018: kCustomKernel [source       | sink        ] last grid: [2, 1, 1] threads: [128, 1, 1]\
  shared_memory: 0 bytes
019: kWhile        [prev=011 (1)  | sink         ]\x20\x20\x20
condition:
    020: kCustomKernel [source | sink] compare grid: [1, 1, 1] threads: [1, 1, 1]\
  shared_memory: 0 bytes
  body:
    021: kCustomKernel [source       | sink        ] inner grid: [2, 1, 1] threads: [128, 1, 1]\
  shared_memory: 0 bytes
"""
METADATA = "\n".join(
    f'thunk_metadata {{\n  thunk_info {{\n    profile_annotation: "{name}"\n'
    f'    thunk_id: {number}\n  }}\n  thunk_kind: "kWhile"\n}}'
    for number, name in ((3, "while.7"), (11, "while.8"), (14, "while.9"), (19, "while"))
)
PROGRAM = """\
  %while.7 = (s32[], f32[2]{0}) while(%tuple), condition=%c, body=%b, backend_config={\
"known_trip_count":{"n":"784"},"known_init_step":{"init":"0","step":"1"}}
  while.8 = (s32[], f32[2]{0}) while(tuple.2), condition=c2, body=b2, backend_config={\
"known_init_step":{"init":"0","step":"1"},"known_trip_count":{"n":"24"}}
  ROOT %while.9 = (s32[]) while(%t), condition=%c3, body=%b3, backend_config={"known_trip_count":\
{"n":"32"}}
  %while = (s32[]) while(%t), condition=%c3, body=%b3, backend_config={"dynamic_variables":[]}
"""
ASSEMBLER = """\
#!/bin/sh
grep -q cannot "$3" && exit 1
[ "$2" = -arch=sm_90a ] || exit 1
cat >&2 <<END
ptxas info    : 64 bytes gmem
ptxas info    : Compiling entry function 'gemm_0' for 'sm_90a'
ptxas info    : Function properties for gemm_0
    24 bytes stack frame, 20 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 24 bytes cumulative stack size
ptxas info    : Compile time = 4.911 ms
ptxas info    : Compiling entry function 'fill' for 'sm_90a'
ptxas info    : Function properties for fill
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 4096 bytes smem, 384 bytes cmem[0]
END
"""


@pytest.fixture
def found(tmp_path):
    """The report of the files above."""
    files = {
        "module_0001.jit_f.thunk_sequence.txt": SEQUENCE,
        "module_0001.jit_f.thunk_sequence_after_thunk_passes.txt": "not read",
        "module_0001.jit_f.thunk_metadata.txt": METADATA,
        "module_0001.jit_f.sm_9.0a_gpu_after_optimizations.txt": PROGRAM,
        "module_0001.jit_f.sm_9.0a_gpu_after_optimizations-buffer-assignment.txt": "not read",
        "module_0001.jit_f.0.ptx": ".version 9.0\n.target sm_90a\n.visible .entry gemm_0(\n",
        "module_0001.jit_f.1.ptx": ".version 9.0\n.target sm_90a\n// constants: cannot be asked\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    ptxas = tmp_path / "ptxas"
    ptxas.write_text(ASSEMBLER, encoding="utf-8")
    ptxas.chmod(stat.S_IRWXU)
    sizes = types.SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=30,
        alias_size_in_bytes=25,
        temp_size_in_bytes=1000,
    )
    compiled = types.SimpleNamespace(memory_analysis=lambda: sizes)
    return report.read(tmp_path, compiled, ptxas)


def test_actions_are_sorted_into_loops(found):
    names = {part.name: [kernel.name for kernel in part.kernels] for part in found.loops}
    assert names == {
        "while.7": ["gemm_0"],
        "while.8": ["fill", "last"],
        "while.9": ["inner"],
        "while": ["inner"],
    }
    assert [kernel.name for kernel in found.outside.kernels] == ["fill", "Gemm"]
    copies = {part.name: part.copies for part in (found.outside, *found.loops)}
    assert copies == {"outside": 1, "while.7": 1, "while.8": 0, "while.9": 1, "while": 0}


def test_a_loop_inside_another_runs_as_often_as_both_say(found):
    runs = {part.name: part.runs for part in found.loops}
    assert runs == {"while.7": 784, "while.8": 24, "while.9": 24 * 32, "while": None}
    # A loop whose runs only the GPU knows counts once.
    launches = 784 * 1 + 24 * 2 + 24 * 32 * 1 + 1
    assert found.per_time_step(784) == launches / 784
    assert found.per_time_step(784, "copies") == (784 + 24 * 32) / 784


def test_what_a_kernel_takes(found):
    gemm, fill = found.loops[0].kernels[0], found.loops[1].kernels[0]
    assert (gemm.registers, gemm.stack, gemm.spilled, gemm.shared) == (255, 24, 32, None)
    # What the assembler knows and what the launch asks for.
    assert (fill.registers, fill.spilled, fill.shared) == (8, 0, 4096 + 1024)
    library = found.outside.kernels[1]
    assert (library.registers, library.spilled, library.shared) == (None, None, None)


def test_memory_leaves_out_results_that_replace_arguments(found):
    assert found.memory == {"arguments": 100, "results": 5, "temporaries": 1000, "total": 1105}
