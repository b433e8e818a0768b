"""What a compiled program does on a GPU: its kernels, by loop, with what each of them takes.

Read from what XLA writes beside a compilation: the sequence of its actions (thunks), the optimised
program, which knows how often a loop runs, and the assembly (PTX) of each kernel.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

# Actions that are no kernel; whatever else there is counts as one.
_COPIES = {"kCopy", "kMemset32BitValue", "kMemzero"}
_STRUCTURE = {
    "kAsyncDone",
    "kAsyncStart",
    "kCommandBuffer",
    "kConditional",
    "kDynamicSliceFusion",
    "kSequential",
    "kWhile",
}
_THUNK = re.compile(r"( *)(\d+): (k\w+) *\[[^]]*\] ?(.*)")


@dataclasses.dataclass
class Kernel:
    """A kernel where it is launched.

    Attributes:
      name: as XLA calls it; kernels of the same code share one.
      registers: of a thread; None for a library's.
      stack: bytes of a thread.
      spilled: bytes that a thread stores and loads for want of registers.
      shared: bytes of a block; None where XLA does not tell.
    """

    name: str
    registers: int | None = None
    stack: int | None = None
    spilled: int | None = None
    shared: int | None = None


@dataclasses.dataclass
class Part:
    """A loop's body, loops inside it left out, or all that stands outside of loops.

    Attributes:
      name: of the loop, as XLA calls it.
      runs: how often it runs in a call of the program; None where only the GPU knows.
      kernels: in the order of their launch.
      copies: copies and fills, which are no kernels.
    """

    name: str
    runs: int | None
    kernels: list[Kernel] = dataclasses.field(default_factory=list)
    copies: int = 0


@dataclasses.dataclass
class Report:
    """What a compiled program does.

    Attributes:
      outside: of all loops.
      loops: in the order of the program; one inside another comes after it.
      memory: bytes: `arguments`, `results` (those that take the place of arguments left out),
        `temporaries`, and their sum `total`.
    """

    outside: Part
    loops: list[Part]
    memory: dict[str, int]

    def per_time_step(self, length: int, what: str = "kernels") -> float:
        """Kernels (or `copies`) that all loops launch, for each of `length` time steps."""

        def count(part: Part) -> int:
            return (1 if part.runs is None else part.runs) * (
                len(part.kernels) if what == "kernels" else part.copies
            )

        return sum(map(count, self.loops)) / length

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return dataclasses.asdict(self)


def read(folder: Path, compiled: jax.stages.Compiled, ptxas: Path) -> Report:
    """Reads what `compile_and_dump` wrote.

    Args:
      folder: the one given to it.
      compiled: what it returned.
      ptxas: NVIDIA's assembler, which tells what a kernel takes.
    """
    runs = _runs(_one(folder, "*gpu_after_optimizations.txt"))
    names = _names(_one(folder, "*.thunk_metadata.txt"))
    outside, loops = _parts(_one(folder, "*.thunk_sequence.txt"), names, runs)
    taken = dict(_taken(folder, ptxas))
    for part in (outside, *loops):
        for kernel in part.kernels:
            registers, stack, spilled, static = taken.get(kernel.name, (None, None, None, 0))
            kernel.registers, kernel.stack, kernel.spilled = registers, stack, spilled
            if kernel.shared is not None:
                kernel.shared += static
    return Report(outside, loops, _memory(compiled))


def _one(folder: Path, pattern: str) -> str:
    (path,) = folder.glob(pattern)
    return path.read_text(encoding="utf-8")


def _runs(program: str) -> dict[str, int]:
    """How often each loop of an optimised program runs, by name, where XLA knows."""
    found = {}
    for line in program.splitlines():
        loop = re.search(r"%?([\w.-]+) = .* while\(", line)
        count = re.search(r'"known_trip_count":{"n":"(\d+)"}', line)
        if loop and count:
            found[loop[1]] = int(count[1])
    return found


def _names(metadata: str) -> dict[int, str]:
    """What in the program each action comes from, by its number."""
    pairs = re.findall(r'profile_annotation: "(.*)"\s+thunk_id: (\d+)', metadata)
    return {int(number): name for name, number in pairs}


def _parts(
    sequence: str, names: Mapping[int, str], runs: Mapping[str, int]
) -> tuple[Part, list[Part]]:
    """Sorts the actions of a program into loops.

    A line is an action, indented by 4 for each that it is inside of. A loop is followed by its
    condition and its body, each with a heading. A condition is left out: where the number of runs
    is known nothing asks for it.
    """
    outside, loops = Part("outside", 1), []
    open_loops: list[tuple[int, Part]] = [(-1, outside)]  # with the indentation of each
    in_condition = False
    for line in sequence.splitlines():
        if line.strip() in ("condition:", "body:"):
            in_condition = line.strip() == "condition:"
        if not (match := _THUNK.match(line)) or in_condition:
            continue
        indent, number, kind, text = len(match[1]), int(match[2]), match[3], match[4]
        while open_loops[-1][0] >= indent:
            open_loops.pop()
        part = open_loops[-1][1]
        if kind == "kWhile":
            name = names.get(number, f"while {number}")
            each, around = runs.get(name), part.runs
            loop = Part(name, None if each is None or around is None else each * around)
            loops.append(loop)
            open_loops.append((indent, loop))
        elif kind in _COPIES:
            part.copies += 1
        elif kind not in _STRUCTURE:
            part.kernels.append(_kernel(kind, text))
    return outside, loops


def _kernel(kind: str, text: str) -> Kernel:
    if named := re.match(r"kernel=([\w.$-]+)", text):
        return Kernel(named[1])
    if custom := re.match(r"([\w.$-]+) grid: .*shared_memory: (\d+) bytes", text):
        return Kernel(custom[1], shared=int(custom[2]))
    return Kernel(kind.removeprefix("k"))  # a library's


def _taken(folder: Path, ptxas: Path) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Yields name, then registers, stack, spilled and static shared bytes of every kernel."""
    for path in sorted(folder.glob("*.ptx")):
        source = path.read_text(encoding="utf-8")
        target = re.search(r"^\.target (\w+)", source, re.MULTILINE)
        if target is None or ".entry" not in source:
            continue  # constants alone
        with tempfile.TemporaryDirectory() as scratch:
            command = [str(ptxas), "-v", f"-arch={target[1]}", str(path), "-o", f"{scratch}/out"]
            done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
        for name, text in re.findall(
            r"Compiling entry function '(.*?)'(.*?)(?=Compiling entry|\Z)", done.stderr, re.DOTALL
        ):
            registers = re.search(r"Used (\d+) registers", text)
            stack = re.search(
                r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text
            )
            static = re.search(r"(\d+) bytes smem", text)
            if registers and stack:
                spilled = int(stack[2]) + int(stack[3])
                shared = int(static[1]) if static else 0
                yield name, (int(registers[1]), int(stack[1]), spilled, shared)


def _memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    sizes: Any = compiled.memory_analysis()
    memory = {
        "arguments": sizes.argument_size_in_bytes,
        "results": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
    }
    return memory | {"total": sum(memory.values())}
