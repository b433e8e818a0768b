"""Captions from a trained model: greedy, by beam search, or drawn; one program for a batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.models import Captioner

END = 0


class Decoding(NamedTuple):
    """How captions are made; hashable.

    Attributes:
      beam_size: captions kept at every word; 1 = greedy.
      max_words: of a caption.
      length_power: a caption's score is divided by the number of its words to this power.
      banned: a word that is never chosen; -1: none.
      temperature: where captions are drawn: logits are divided by it. None: the likeliest.
      seed: of the draws.
      ensemble: parameters are of several seeds, leaves `(seeds, ...)`; the next word's probability
        is the mean of theirs.
    """

    beam_size: int
    max_words: int
    length_power: float = 0.0
    banned: int = -1
    temperature: float | None = None
    seed: int = 0
    ensemble: bool = False


class Found(NamedTuple):
    """Captions of pictures.

    Attributes:
      words: `(pictures, max_words)` int32, 0 from the end on.
      score: log probability of the words, and of the end where there is one, `(pictures,)`.
    """

    words: Array
    score: Array


def decode(
    model: Captioner, params: Any, inputs: dict[str, Array], how: Decoding, pictures: Array
) -> Found:
    """Makes a caption of each picture.

    Args:
      model: holds the layers.
      params: of one seed, or of several (`how.ensemble`).
      inputs: `fc` and perhaps `att`, as the network sees them.
      how: greedy, beam or drawn.
      pictures: a number of each, on which alone its draws depend, `(pictures,)`.
    """
    if how.temperature is not None:
        return _sample(model, params, inputs, how, pictures)
    return _beam(model, params, inputs, how)


def _begin(
    model: Captioner, params: Any, how: Decoding, inputs: dict[str, Array], copies: int
) -> Any:
    """State and memory before the first word; seeds are the second axis of the state."""

    def begin(params: Any) -> Any:
        return model.apply({"params": params}, inputs, copies, method=Captioner.begin)

    return jax.vmap(begin, out_axes=(1, 0))(params) if how.ensemble else begin(params)


def _next(
    model: Captioner, params: Any, how: Decoding, carries: Any, memory: Any, words: Array
) -> tuple[Any, Array, Array]:
    """The next state, its log probabilities, and the same without what is banned."""

    def read(params: Any, carries: Any, memory: Any) -> Any:
        variables = {"params": params}
        new: Any = model.apply(variables, carries, memory, words, method=Captioner.next)
        carries, logits = new
        return carries, jax.nn.log_softmax(logits)

    if how.ensemble:
        carries, each = jax.vmap(read, in_axes=(0, 1, 0), out_axes=1)(params, carries, memory)
        logp = jax.nn.logsumexp(each, axis=1) - jnp.log(each.shape[1])
    else:
        carries, logp = read(params, carries, memory)
    return carries, logp, logp if how.banned < 0 else logp.at[:, how.banned].set(-jnp.inf)


def _beam(model: Captioner, params: Any, inputs: dict[str, Array], how: Decoding) -> Found:
    """Beam search with K live captions and a pool of the K best that ended.

    At every word the K best continuations are taken of all live captions; one that ends goes into
    the pool, and its place stays empty until the next word. At the last word all live ones go into
    the pool, without an end. A caption that ended thus never takes the place of a live one, which
    it does in the code of Arpit et al. (2019).
    """
    size, power, most = how.beam_size, how.length_power, how.max_words
    pictures = len(inputs["fc"])
    carries, memory = _begin(model, params, how, inputs, size)

    def rows(leaf: Array) -> Array:  # (pictures * K, ...) -> (pictures, K, ...)
        return leaf.reshape(pictures, size, *leaf.shape[1:])

    def follow(leaf: Array, parents: Array) -> Array:
        return jax.vmap(lambda each, parent: each[parent])(rows(leaf), parents)

    def normalised(score: Array, count: Array | int) -> Array:
        return score / jnp.maximum(count, 1) ** power if power else score

    def step(state: Any, at: Array) -> tuple[Any, None]:
        carries, words, live, (pool_words, pool_score, pool_rank), last = state
        carries, _, logp = _next(model, params, how, carries, memory, last.reshape(-1))
        total = (live[..., None] + rows(logp)).reshape(pictures, -1)
        vocabulary = logp.shape[-1]
        # In order of falling score; of equal ones the first, of the lower caption and word.
        best, chosen = lax.top_k(total, size)
        parents, word = chosen // vocabulary, chosen % vocabulary
        words = jnp.take_along_axis(words, parents[..., None], axis=1)
        words = words.at[:, :, at].set(word)
        ended = (word == END) | (at == most - 1)
        count = at + (word != END)
        rank = jnp.where(ended, normalised(best, count), -jnp.inf)
        pool_rank, kept = lax.top_k(jnp.concatenate([pool_rank, rank], axis=1), size)
        pool_score = jnp.take_along_axis(jnp.concatenate([pool_score, best], axis=1), kept, axis=1)
        both = jnp.concatenate([pool_words, words], axis=1)
        pool_words = jnp.take_along_axis(both, kept[..., None], axis=1)
        carries = jax.tree.map(lambda leaf: follow(leaf, parents).reshape(leaf.shape), carries)
        live = jnp.where(ended, -jnp.inf, best)
        return (carries, words, live, (pool_words, pool_score, pool_rank), word), None

    nothing = jnp.full((pictures, size), -jnp.inf)
    words = jnp.zeros((pictures, size, most), jnp.int32)
    live = nothing.at[:, 0].set(0.0)  # one beam at first
    pool = (words, nothing, nothing)
    start = (carries, words, live, pool, jnp.zeros((pictures, size), jnp.int32))
    (_, _, _, (words, score, _), _), _ = lax.scan(step, start, jnp.arange(most))
    return Found(words[:, 0], score[:, 0])


def _sample(
    model: Captioner, params: Any, inputs: dict[str, Array], how: Decoding, pictures: Array
) -> Found:
    """Draws words one after the other; temperature 0 takes the likeliest."""
    temperature = how.temperature
    assert temperature is not None
    carries, memory = _begin(model, params, how, inputs, 1)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(how.seed), pictures)

    def step(state: Any, at: Array) -> tuple[Any, Array]:
        carries, score, ended, last = state
        carries, logp, allowed = _next(model, params, how, carries, memory, last)
        if temperature:
            now = jax.vmap(jax.random.fold_in, (0, None))(keys, at)
            word = jax.vmap(jax.random.categorical)(now, allowed / temperature)
        else:
            word = allowed.argmax(-1)
        word = jnp.where(ended, END, word).astype(jnp.int32)
        gain = jnp.take_along_axis(logp, word[:, None], axis=1)[:, 0]
        score = score + jnp.where(ended, 0.0, gain)
        return (carries, score, ended | (word == END), word), word

    none = jnp.zeros(len(pictures))
    start = (carries, none, none > 0, jnp.zeros(len(pictures), jnp.int32))
    (_, score, _, _), words = lax.scan(step, start, jnp.arange(how.max_words))
    return Found(words.T, score)
