"""Random configs, and the promise that each of them either trains or is refused in one line.

    python -m tests.fuzz --seconds=3600 --steps=2 [--seed=N]

builds configs from small experiments and changed keys, with values in range, at the borders and
beyond, and trains each for two steps and evaluates it. It prints what broke the promise, each kind
once, with the changed keys, and at the end how many it tried and what became of them. Status 1: the
promise was broken. `test_fuzz.py` does the same up to building and tracing the step.
"""

import argparse
import collections
import contextlib
import dataclasses
import faulthandler
import io
import math
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import hypothesis
import jax
from hypothesis import strategies as st

from lrd_jax.cells import CELLS
from lrd_jax.cells.gates import GATE_CODES
from lrd_jax.config import checks, defaults
from lrd_jax.config.values import flatten, put
from lrd_jax.errors import Interrupted, RunError, UserError
from lrd_jax.training import effects, loop
from lrd_jax.training.program import make_program

# Experiments that a step of which is compiled in a moment; each knows other keys.
SMALL = {
    "train.num_steps": 2,
    "train.log_every_steps": 1,
    "data.batch_size": 4,
    "model.hidden_size": 4,
    "model.head_hidden": (3,),
    "aux.head_hidden": (3,),
    "aux.segment_length": 3,
}
EXPERIMENTS = {
    "digits": {"data.name": "digits", "data.order": "row"},
    "copy": {"data.name": "copy", "data.preset": "gu", "data.delay": 3},
    "adding": {"data.name": "adding", "data.length": 6},
    "recall": {"data.name": "recall", "data.length": 16, "data.pairs": 2, "data.vocabulary": 16},
    "text": {"data.name": "text", "data.length": 6, "data.valid_split": "last:500"},
    "reconstruct": {"data.name": "digits", "data.order": "row", "aux.kind": "reconstruct"},
}

# What strings mean something somewhere. Every key is also given those of another.
WORDS = {
    "data.name": ("digits", "copy", "adding", "recall", "text"),
    "data.permutation": ("none", "bitreverse", "92916", "seed:3", "seed:-1", "seed:"),
    "data.order": ("pixel", "row"),
    "data.valid_split": ("last:10", "first:3", "last:0", "last:100000000", "last:", "middle:3"),
    "data.class_weights": ("none", "balanced"),
    "data.preset": ("hdetach", "gu", "marker", ""),
    "data.unit": ("char", "word"),
    "data.encoding": ("preset", "scalar", "onehot"),
    "model.cell": tuple(CELLS),
    "model.gates": tuple(GATE_CODES),
    "model.bias_init": ("zeros", "two_uniform"),
    "model.activation": ("tanh", "relu"),
    "model.recurrent_init": ("kernel_init", "orthogonal", "identity"),
    "model.refine_bias": ("neg_forget", "zero"),
    "model.block": ("none", "residual", "prenorm"),
    "model.pool": ("last", "mean", "max"),
    "model.reset_gate": ("--", "U-", "-R", "UR"),
    "model.kernel_init": ("uniform_rsqrt", "xavier", "trunc_normal"),
    "model.embedding": ("linear", "table"),
    "model.compute_dtype": ("float32", "bfloat16", "float64", "int8"),
    "model.backend": ("auto", "scan", "fused", "linear", "kernel"),
    "detach.scope": ("batch", "example"),
    "detach.stack_mask": ("shared", "per_layer"),
    "truncate.supervised": ("same", "stop", "2", "0", "-1", "2.5"),
    "aux.kind": ("none", "reconstruct", "predict", "both"),
    "aux.loss": ("auto", "mse", "ce"),
    "aux.scope": ("batch", "example"),
    "aux.decoder_feed": ("teacher", "none", "scheduled"),
    "aux.embedding": ("none", "decoder"),
    "optim.name": ("adam", "adamw", "rmsprop", "sgd"),
    "optim.clip_scope": ("all", "cell"),
    "optim.schedule": ("constant", "cosine", "step"),
    "eval.split": ("train", "valid", "test"),
    "eval.prompt": ("", "the", "Ω"),
    "train.forward": ("none", "none", "wandb"),
    "devices.split": ("batch", "seeds"),
}
ODD_WORDS = ("", " ", "zzz", "UR ", "Ω", "a\nb", "0", "none", "true")
INTEGERS = (0, 1, 2, 3, 4, 5, 7, 8, 16)
ODD_INTEGERS = (-1, -2, 1000, 10**6, 2**31 - 2, 2**31 - 1, 2**31, 10**12, 10**30)
REALS = (0.0, 0.1, 0.5, 1.0, 2.0)
ODD_REALS = (-0.1, 1.5, -1.0, 1e-30, 1e30, 1e300, math.inf, math.nan, 1e-300)
OF_ANOTHER_TYPE = (None, "1", 1.5, True, 3, (1,), {}, b"x", ("a",), [[1]], object)


def values(key, default):
    """A strategy for the values of a key: mostly in range, else at a border or beyond it."""
    if isinstance(default, bool):
        usual, odd = (True, False), ()
    elif isinstance(default, int):
        usual, odd = INTEGERS, ODD_INTEGERS
    elif isinstance(default, float):
        usual, odd = REALS, ODD_REALS
    elif isinstance(default, str):
        usual, odd = WORDS.get(key, ODD_WORDS), ODD_WORDS
    else:
        usual = ((), (1,), (2, 3), (0.1, 0.2))
        odd = ((0,), (-1, 2), (0.5, 0.5), (2**31,), (math.nan,), tuple(range(40)))
    kinds = [st.sampled_from(usual)] * 6 + [st.sampled_from(odd or usual)] * 2
    return st.one_of(*kinds, st.sampled_from(OF_ANOTHER_TYPE))


DEFAULTS = flatten(defaults.get_config())
# Where data is, is no part of an experiment here; nor how many devices this process has.
FIXED = ("data.data_dir", "data.text_dir", "devices.cpu_devices")
KEYS = [key for key in DEFAULTS if key not in FIXED]


@st.composite
def configs(draw):
    """The name of an experiment, and the keys that are changed in it: alone, in pairs, or more."""
    name = draw(st.sampled_from(sorted(EXPERIMENTS)))
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True))
    return name, {key: draw(values(key, DEFAULTS[key])) for key in keys}


def make_config(name, changed, folder):
    """The config of an experiment with changed keys; what a config file would return."""
    config = defaults.get_config()
    places = {"data.data_dir": f"{folder}/data", "data.text_dir": f"{folder}/text"}
    where = {**SMALL, **EXPERIMENTS[name], **changed}
    text = where["data.name"] == "text"
    with config.unlocked(), config.ignore_type():
        for key, value in {**where, **places}.items():
            if text or key != "data.text_dir":
                put(config, key, value)
    return config


def keep_text(folder):
    """Writes the text that the language models read."""
    text = Path(folder, "text")
    text.mkdir(exist_ok=True)
    (text / "book.txt").write_text("the cell keeps what it saw, and lets go. " * 100, "utf-8")


def refusal(action):
    """What `action` refuses with, or None; anything else that it raises breaks the promise."""
    try:
        action()
    except UserError as error:
        assert str(error).strip(), "refused without a word"
        assert "\n" not in str(error), f"refused in several lines: {error}"
        return str(error)
    return None


def traced(config):
    """Builds all that a run needs, and traces its step and its evaluation."""
    checks.validate(config)
    config, _ = effects.judge(config, {})
    program = make_program(config)
    program.lower_train_step()
    return program


@dataclasses.dataclass
class Tally:
    """What became of the configs."""

    outcomes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    broken: dict = dataclasses.field(default_factory=dict)


def train(config, workdir, steps):
    """Trains a config of the fuzz; returns what became of it."""
    with config.unlocked(), config.ignore_type():
        if config.train.stop_step == 0:
            config.train.stop_step = steps
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            why = refusal(lambda: loop.train(config, workdir))
        except RunError as error:
            assert "\n" not in str(error)
            return "stopped"
    if why is None:
        assert (workdir / "result.json").exists(), "ended without a result"
        return "trained"
    assert not workdir.exists(), f"refused, and left {sorted(workdir.iterdir())}: {why}"
    return "refused"


def run(seconds, steps, seed):
    """Trains random configs for so many seconds; returns the tally."""
    tally, end, count = Tally(), time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        keep_text(folder)
        print(f"the config under way: {folder}/now", flush=True)

        def one(case):
            nonlocal count
            if time.monotonic() > end:
                return
            name, changed = case
            count += 1
            Path(folder, "now").write_text(f"{count} {name} {changed}\n", encoding="utf-8")
            faulthandler.dump_traceback_later(300, exit=True)
            try:
                outcome = train(
                    make_config(name, changed, folder), Path(folder, f"w{count}"), steps
                )
            except (KeyboardInterrupt, Interrupted):
                raise
            except BaseException as error:
                outcome = "broken"
                where = traceback.extract_tb(error.__traceback__)[-1]
                kind = (type(error).__name__, where.filename, where.lineno)
                if kind not in tally.broken:
                    tally.broken[kind] = f"{name} {changed}: {type(error).__name__}: {error}"
                    print(tally.broken[kind][:1000], flush=True)
                    traceback.print_tb(error.__traceback__, limit=-6)
            faulthandler.cancel_dump_traceback_later()
            tally.outcomes[outcome] += 1
            jax.clear_caches()

        while time.monotonic() < end:
            drawn = hypothesis.settings(
                max_examples=200,
                phases=[hypothesis.Phase.generate],
                deadline=None,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )(hypothesis.given(configs())(one))
            hypothesis.seed(seed)(drawn)()
            seed += 1
    return tally


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    tally = run(args.seconds, args.steps, args.seed)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in tally.outcomes.most_common())
    print(f"{sum(tally.outcomes.values())} configs: {outcomes}")
    return 1 if tally.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
