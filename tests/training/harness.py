"""A small run whose devices, data and objective a test chooses."""

import jax
import jax.numpy as jnp
import numpy as np

from lrd_jax.config import defaults
from lrd_jax.config.horizon import run_horizon
from lrd_jax.data.pipeline import ArrayDataset
from lrd_jax.data.spec import DataSpec
from lrd_jax.metrics import LOSS
from lrd_jax.objectives import make_objective
from lrd_jax.runtime import devices
from lrd_jax.training.program import Program

SPEC = DataSpec("classify", length=20, features=2, classes=4)
SIZES = {"train": 52, "valid": 13, "test": 11}


def make_config(**overrides):
    config = defaults.get_config()
    config.update_from_flattened_dict(
        {
            "data.batch_size": 8,
            "model.cell": "urlstm",
            "model.hidden_size": 6,
            "model.head_hidden": (5,),
            "optim.learning_rate": 1e-2,
            "train.num_steps": 20,
        }
        | {key.replace("__", "."): value for key, value in overrides.items()}
    )
    return config


class RandomData(ArrayDataset):
    """Random sequences; some rows of every training batch are masked, unevenly over devices."""

    def __init__(self, batch_size=8, poison=None):
        rng = np.random.default_rng(0)
        splits = {
            name: (
                rng.normal(size=(size, SPEC.length, SPEC.features)).astype(np.float32),
                rng.integers(0, SPEC.classes, size, np.int32),
            )
            for name, size in SIZES.items()
        }
        super().__init__(SPEC, splits, batch_size, "random")
        self._poison = poison

    def train_batch(self, seed, step, rows):
        batch = super().train_batch(seed, step, slice(None))
        batch["mask"][[0, 1, 5]] = 0
        if (seed, step) == self._poison:
            batch["inputs"] = batch["inputs"] * np.nan
        return {name: value[rows] for name, value in batch.items()}


def make_program(config, num_devices=4, dataset=None, objective=None):
    """The real `Program` on the first devices, with random data, and another objective if given."""
    dataset = dataset or RandomData(config.data.batch_size)
    horizon = run_horizon(config, dataset.num_train)
    objective = objective or make_objective(config, dataset.spec, horizon)
    mesh = devices.make_mesh(jax.devices()[:num_devices])
    return Program(config, dataset, mesh, objective)


def run(program, steps, state=None):
    """The state after some more steps."""
    state = program.init() if state is None else state
    start = int(state.step)
    for step in range(start, start + steps):
        state = program.train_step(state, program.batch(step))
    return state


def largest_difference(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs)


def assert_identical(one, other):
    one, other = jax.device_get((one, other))
    jax.tree.map(np.testing.assert_array_equal, one, other)


class Stream:
    """A toy with memory between batches: s <- s/2 + x_1 + w; the loss is the sum of s.

    The gradient of w is 1, so SGD's w and with it every s is known in closed form.
    """

    metrics = select = (LOSS,)
    width = 3

    def init(self, key):
        del key
        return {"w": jnp.zeros(self.width)}

    def initial_carry(self, batch_size):
        return {"s": jnp.ones((batch_size, self.width))}

    def loss(self, variables, carry, batch, step):
        del step
        params = variables["params"]
        s = carry["s"] / 2 + batch["inputs"][:, 0, :1] + params["w"]
        total = (s.mean(axis=1) * batch["mask"]).sum() * self.width
        return total, ({"loss": (total, batch["mask"].sum())}, {"s": s})


class Mean:
    """Averages the inputs; says which examples an evaluation counted."""

    metrics = select = (LOSS,)

    def init(self, key):
        del key
        return {"w": jnp.zeros(1)}

    def initial_carry(self, batch_size):
        del batch_size
        return ()

    def loss(self, variables, carry, batch, step):
        del step
        params = variables["params"]
        total = (batch["inputs"][:, 0, 0] * batch["mask"]).sum() + 0 * params["w"].sum()
        return total, ({"loss": (total, batch["mask"].sum())}, carry)
