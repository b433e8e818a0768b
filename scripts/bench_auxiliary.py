"""Cost of a training step with an auxiliary loss against one without, interleaved in one run.

    python scripts/bench_auxiliary.py                     # minutes on two cores
    python scripts/bench_auxiliary.py --quick             # a smaller batch, fewer turns

The network of `configs/auxiliary_images.py:A14`: 784 steps, batch 128, 128 units, segments of 600,
no truncation; random pixels. A step is all of it: both losses, gradients, update. Three contenders:
no auxiliary loss; the default decoder (two layers, head 256, 256); one decoder layer with a linear
head. All are compiled first and run once; then they take turns, so that a disturbance hits them
all.

Writes `results/bench_auxiliary_<device>.json`, and prints medians and their ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout that is not installed

from lrd_jax.runtime.huge_pages import restart_with_huge_pages  # noqa: E402

CONTENDERS: dict[str, tuple[dict[str, Any], float]] = {  # changes of the config, largest ratio
    "plain": ({"aux.kind": "none", "aux.pretrain_epochs": 0.0}, 1.0),
    "default decoder": ({}, 3.6),
    "one layer, linear head": ({"aux.decoder_layers": 1, "aux.head_hidden": ()}, 2.2),
}


def make_config(changes: dict[str, Any], batch: int) -> Any:
    """The config of a contender; it is in the joint phase from the start."""
    from configs import auxiliary_images

    config: Any = auxiliary_images.get_config("A14")
    config.aux.pretrain_epochs = 0.0
    config.data.batch_size = batch
    config.update_from_flattened_dict(changes)
    return config


def random_pixels(batch: int) -> Any:
    """A data set of the shape of pixel-wise MNIST."""
    import numpy as np

    from lrd_jax.data.pipeline import ArrayDataset
    from lrd_jax.data.spec import DataSpec

    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (batch, 784, 1), np.uint8)
    spec = DataSpec("classify", 784, 1, 10, scale=(1 / 255,), values=256)
    return ArrayDataset(spec, {"train": (inputs, np.arange(batch) % 10)}, batch, "random pixels")


def measure(batch: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, by contender."""
    import jax

    from lrd_jax.config.horizon import run_horizon
    from lrd_jax.objectives import make_objective
    from lrd_jax.runtime.devices import make_mesh
    from lrd_jax.training.program import Program

    running = {}
    for name, (changes, _) in CONTENDERS.items():
        config, dataset = make_config(changes, batch), random_pixels(batch)
        horizon = run_horizon(config, dataset.num_train)
        objective = make_objective(config, dataset.spec, horizon)
        program = Program(config, dataset, make_mesh(), objective)
        batches = program.batch(0)
        state = jax.block_until_ready(program.train_step(program.init(), batches))
        running[name] = program, batches, jax.block_until_ready(program.train_step(state, batches))
        print(f"{name} is compiled", file=sys.stderr, flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(repeats):
        for name, (program, batches, state) in running.items():
            started = time.perf_counter()
            state = jax.block_until_ready(program.train_step(state, batches))
            seconds[name].append(time.perf_counter() - started)
            running[name] = program, batches, state
    return seconds


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="batch 16, three turns")
    parser.add_argument("--batch", type=int, help="examples of a step; default 128")
    parser.add_argument("--repeats", type=int, help="turns of each contender; default 11")
    parser.add_argument("--output", type=pathlib.Path, help="default in results/")
    options = parser.parse_args()
    batch = options.batch or (16 if options.quick else 128)
    repeats = options.repeats or (3 if options.quick else 11)

    from lrd_jax.runtime import devices

    devices.configure(make_config({}, batch))
    load = os.getloadavg()
    seconds = measure(batch, repeats)

    from lrd_jax.reporting import provenance

    medians = {name: statistics.median(each) for name, each in seconds.items()}
    rows = [
        {
            "contender": name,
            "median_s": medians[name],
            "ratio": medians[name] / medians["plain"],
            "goal": goal,
            "met": medians[name] <= goal * medians["plain"],
            "seconds": seconds[name],
        }
        for name, (_, goal) in CONTENDERS.items()
    ]
    device = provenance.device_description()
    result = {
        "command": ["python", "scripts/bench_auxiliary.py", *sys.argv[1:]],
        "config": {"steps": 784, "segment": 600, "batch": batch, "units": 128, "repeats": repeats},
        "date": time.strftime("%Y-%m-%d"),
        "device": device,
        "cores": os.cpu_count(),
        "load_average": load,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "records": rows,
    }
    slug = "gpu" if "gpu" in device.lower() or "nvidia" in device.lower() else "cpu"
    output = options.output or ROOT / "results" / f"bench_auxiliary_{slug}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        verdict = "" if row["contender"] == "plain" else "met" if row["met"] else "MISSED"
        print(
            f"{row['contender']:<24} {row['median_s']:8.3f} s  {row['ratio']:5.2f} times plain"
            f"  goal {row['goal']}  {verdict}".rstrip()
        )


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
