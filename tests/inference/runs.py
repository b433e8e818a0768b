"""Work directories of models that nothing trained: as good as any to say the same four ways."""

import jax.numpy as jnp
import numpy as np

from lrd_jax.config import record
from lrd_jax.data.pipeline import ArrayDataset
from lrd_jax.data.spec import DataSpec
from lrd_jax.reporting.workdir import keep_spec, keep_vocabulary
from lrd_jax.runtime import devices
from lrd_jax.runtime.checkpoints import Checkpoints
from lrd_jax.training.program import make_program
from lrd_jax.training.state import split_best
from tests.training.harness import make_config

CLASSES = ("ant", "bee", "cat")
SPEC = DataSpec(
    "classify",
    length=12,
    features=2,
    classes=3,
    offset=(0.5, -1.0),
    scale=(2.0, 0.5),
    class_names=CLASSES,
)


def make_run(workdir, spec=SPEC, dataset=None, **overrides):
    """Saves the initial parameters, spread out, as a run's best; returns the work directory.

    The last seed validated best.
    """
    config = make_config(**overrides)
    if dataset is None:
        kinds = {"regress": ((), np.float32), "tag": ((spec.scored,), np.int32)}
        shape, dtype = kinds.get(spec.kind, ((), np.int32))
        examples = (
            np.zeros((8, spec.length, spec.features), np.float32),
            np.zeros((8, *shape), dtype),
        )
        splits = dict.fromkeys(("train", "valid", "test"), examples)
        dataset = ArrayDataset(spec, splits, 8, "nothing")
    program = make_program(config, dataset, devices.make_mesh(devices.find_devices()[:1]))
    state = program.init()
    seeds = jnp.arange(1, config.num_seeds + 1)
    valid = {name: -seeds * 1.0 for name in state.best.valid}  # of losses, less is better
    if "accuracy" in valid:
        valid["accuracy"] = seeds * 0.1
    params = {**state.best.params}
    state = state.replace(best=state.best.replace(step=10 * seeds, valid=valid, params=params))
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(record.to_json(config), "utf-8")
    keep_spec(workdir, dataset.spec)
    keep_vocabulary(workdir, dataset.spec.vocabulary)
    checkpoints = Checkpoints(workdir / "checkpoints")
    extra = {"first_nonfinite_step": [-1] * config.num_seeds}
    checkpoints.save(10, split_best(state), extra)
    checkpoints.close()
    return workdir
