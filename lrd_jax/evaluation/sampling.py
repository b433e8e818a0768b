"""Text from a trained language model, `--mode=eval --config.eval.sample_tokens=N`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.data import reads_text
from lrd_jax.errors import UserError
from lrd_jax.evaluation import estimate
from lrd_jax.evaluation.loaded import Loaded
from lrd_jax.evaluation.scores import NOWHERE
from lrd_jax.objectives.language import Language
from lrd_jax.reporting import tensorboard
from lrd_jax.reporting.workdir import keep, read_vocabulary


def check(workdir: Path, config: Any) -> None:
    """Raises UserError for another task, or a prompt with a symbol that the model does not know."""
    vocabulary, options = read_vocabulary(workdir), config.eval
    if vocabulary is None or not reads_text(config.data.name):
        raise UserError(
            f"eval.sample_tokens={options.sample_tokens} is for trained language models, and"
            f" {workdir} holds no vocabulary of one (data.name={config.data.name})"
        )
    vocabulary.encode(options.prompt)


def run(loaded: Loaded) -> str:
    """Writes a text with the best parameters; also into `eval/sample.txt`.

    The text that it was trained with need not be there. The same prompt, temperature and
    `eval.sample_seed` give the same text. Of several seeds that trained together the one that
    validated best writes.

    Args:
      loaded: a language model.

    Returns:
      The prompt and what the model made of it.
    """
    objective, vocabulary, options = loaded.objective, loaded.spec.vocabulary, loaded.config.eval
    estimate.check_sample(options.sample_tokens, loaded.mesh)
    assert isinstance(objective, Language) and vocabulary is not None
    index, params, chosen = loaded.choose()
    prompt = vocabulary.encode(options.prompt)
    tokens = generate(
        objective,
        params,
        jnp.array([vocabulary.start, *prompt]),
        jax.random.key(options.sample_seed),
        options.sample_tokens,
        options.temperature,
    )
    text = vocabulary.decode([*prompt, *jax.device_get(tokens)])
    target = loaded.workdir / "eval" / "sample.txt"
    print(text, flush=True)
    kept = keep(target, text + "\n")
    if kept and loaded.config.train.tensorboard:
        step = int(loaded.best.step[index])
        tensorboard.show(target.parent / "tensorboard" / "sample", step, text={"eval/sample": text})
    print(f"\n{f'by {chosen}; ' if chosen else ''}written to {kept or NOWHERE}")
    return text


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def generate(
    objective: Language, params: Any, prompt: Array, key: Array, count: int, temperature: float
) -> Array:
    """Draws tokens one after the other, each from what the model expects after all before it.

    Args:
      objective: holds the model.
      params: of one seed.
      prompt: what is read first, `(tokens,)`, at least one.
      key: of the draws.
      count: tokens to draw.
      temperature: logits are divided by it; 0 = the likeliest token, nothing is drawn.

    Returns:
      The tokens drawn, `(count,)` int32.
    """

    def read(tokens: Array, carry: Any, start: bool) -> tuple[Array, Any]:
        """Logits after the last token, and the state."""
        begins = jnp.full(1, start)
        outputs: Any = objective.model.apply({"params": params}, tokens[None], carry, begins)
        features, readout, carry = outputs
        return readout.logits(features[0, -1]), carry

    def step(state: tuple[Array, Any], key: Array) -> tuple[tuple[Array, Any], Array]:
        logits, carry = state
        if temperature == 0:
            token = logits.argmax()
        else:
            token = jax.random.categorical(key, logits / temperature)
        return read(token[None], carry, False), token

    first = read(prompt, objective.initial_carry(1), True)
    return lax.scan(step, first, jax.random.split(key, count))[1]
