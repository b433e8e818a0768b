"""Work directories of models that nothing trained: as good as any to say the same four ways."""

import jax
import jax.numpy as jnp
import numpy as np

from lrd_jax.config import record
from lrd_jax.data.pipeline import ArrayDataset
from lrd_jax.data.spec import DataSpec
from lrd_jax.evaluation.best import before_any
from lrd_jax.objectives import make_evaluated
from lrd_jax.reporting.workdir import keep_spec, keep_vocabulary
from lrd_jax.runtime.checkpoints import Checkpoints
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
    """Saves initial parameters as the best of a run; returns the work directory.

    The last seed validated best.
    """
    config = make_config(**{"data.name": "adding"} | overrides)
    if dataset is None:
        kinds = {"regress": ((), np.float32), "tag": ((spec.scored,), np.int32)}
        shape, dtype = kinds.get(spec.kind, ((), np.int32))
        examples = (
            np.zeros((8, spec.length, spec.features), np.float32),
            np.zeros((8, *shape), dtype),
        )
        splits = dict.fromkeys(("train", "valid", "test"), examples)
        dataset = ArrayDataset(spec, splits, 8, "nothing")
    objective = make_evaluated(config, dataset.spec)
    count = config.num_seeds
    params = jax.jit(jax.vmap(objective.init))(jax.vmap(jax.random.key)(jnp.arange(count)))
    place = jnp.arange(1, count + 1)
    best = before_any(objective, params)
    valid = {name: 0.1 * place if name == "accuracy" else -0.1 * place for name in best.valid}
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(record.to_json(config), "utf-8")
    keep_spec(workdir, dataset.spec)
    keep_vocabulary(workdir, dataset.spec.vocabulary)
    checkpoints = Checkpoints(workdir / "checkpoints")
    best = best.replace(step=10 * place, valid=valid)
    checkpoints.save(10, {"best": best}, {"first_nonfinite_step": [-1] * count})
    checkpoints.close()
    return workdir
