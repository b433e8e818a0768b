"""What a run needs at least, known before data are made or anything is allocated.

Every number is a lower bound of what the compiled programs take, so that nothing that fits is
refused; what it lets through may still run out of memory.
"""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.runtime.devices import memory_of, prefers_loops

_FLOAT = 4  # bytes; the state is float32, whatever the products are computed in
# Assumed for a layer and direction, of step, evaluation and initialisation together; the step alone
# took 0.3 to 0.9 s (lstm, urlstm; 1 against 6 layers, two busy cores). Deeper: untried.
_COMPILE_S = 1.0
_COMPILE_BUDGET_S = 600.0
# On the host, for each run side by side: its examples are drawn, then stacked with those of others
# (digits, batches of 4: 0.1 ms on a busy core). The records of a million would be as slow.
_MEMBER_S = 5e-5
_STEP_BUDGET_S = 10.0
_TOKEN_BYTES = 20  # of a sample: its key, and the token on the device and in a list


def check_training(config: Any, spec: DataSpec, mesh: Mesh, num_members: int) -> None:
    """Refuses a config that cannot train on these devices.

    Args:
      config: the run's config.
      spec: describes the data.
      mesh: the devices.
      num_members: runs side by side.

    Raises:
      UserError: it needs more memory than there is.
    """
    # Of a GPU each device holds its share of a batch, or whole runs; see `memory_of`.
    sharing = 1 if prefers_loops(mesh) else mesh.size
    batch = config.data.batch_size
    sequences = num_members * batch
    # A CPU trains the members one by one, so that only one backward pass is under way.
    at_once = (batch if prefers_loops(mesh) else sequences) // config.train.accumulate
    parts = {
        "the states that the backward pass keeps (lower data.batch_size, raise train.accumulate, or"
        " lower the length of the sequences or model.hidden_size)": at_once
        * _kept(config, spec)
        // sharing,
        "the segments of the auxiliary loss (lower aux.n_anchors, aux.segment_length or the"
        " decoder)": at_once * _kept_by_decoder(config) // sharing,
        "the examples of a call (lower train.steps_per_call)": _FLOAT
        * sequences
        * config.train.steps_per_call
        // sharing,
        "the input kernels with their best values (lower the width of the input)": 2
        * num_members
        * _FLOAT
        * _width(spec)
        * _first_width(config)
        // (sharing if config.devices.split == "seeds" else 1),
        "the words of a batch, read and asked for (lower data.captions_per_image or"
        " data.max_words)": sequences * _words(spec) // sharing,
    }
    _check(parts, mesh)


def check_evaluation(config: Any, spec: DataSpec, mesh: Mesh, batch_size: int) -> None:
    """Refuses evaluation batches that cannot fit; arguments as above.

    Args:
      config: the run's config.
      spec: describes the data.
      mesh: the devices.
      batch_size: sequences of a batch, of which a split has at least so many.

    Raises:
      UserError: they need more memory than there is.
    """
    sharing = 1 if prefers_loops(mesh) else mesh.size
    # Stored inputs take a byte or more each; the first layer's product is there for all steps.
    step = (1 if spec.one_hot else _width(spec)) + _FLOAT * config.model.hidden_size
    needed = batch_size * (spec.length * step + _words(spec))
    part = "an evaluation batch (lower eval.batch_size or the length of the sequences)"
    parts = {part: needed // sharing}
    if spec.kind == "caption" and config.eval.decode == "beam":  # scores of every next word
        scores = _FLOAT * batch_size * config.eval.beam_size * spec.classes
        parts["the captions kept (lower eval.beam_size)"] = scores // sharing
    _check(parts, mesh)


def check_sample(tokens: int, mesh: Mesh) -> None:
    """Refuses a text that is too long to be held, with UserError.

    Args:
      tokens: to draw.
      mesh: the devices.
    """
    _check({"the text (lower eval.sample_tokens)": _TOKEN_BYTES * tokens}, mesh)


def check_compiling(config: Any) -> None:
    """Raises UserError where the layers, each of which is compiled, would take too long."""
    model, aux = config.model, config.aux
    layers = model.num_layers * (2 if model.bidirectional else 1)
    layers += aux.decoder_layers if aux.kind != "none" else 0
    needed = layers * _COMPILE_S
    if needed > _COMPILE_BUDGET_S:
        raise UserError(
            f"{layers} layers (model.num_layers={model.num_layers}, each direction, and those of a"
            f" decoder) would compile for about {needed / 60:.0f} minutes, at {_COMPILE_S:g} s"
            f" each, and {_COMPILE_BUDGET_S / 60:.0f} are the most that a run may; lower"
            " model.num_layers or aux.decoder_layers"
        )


def check_members(num_members: int) -> None:
    """Raises UserError where so many runs side by side would spend the time on making batches."""
    needed = num_members * _MEMBER_S
    if needed > _STEP_BUDGET_S:
        raise UserError(
            f"{num_members:,} runs side by side would wait about {needed:,.0f} s at each step until"
            f" each has its batch, at {1e6 * _MEMBER_S:.0f} us each, and {_STEP_BUDGET_S:.0f} s are"
            " the most that a run may; lower num_seeds, or the values of sweep.*"
        )


def _kept(config: Any, spec: DataSpec) -> int:
    """Bytes of the outputs of all layers that the gradient of one sequence is made of."""
    model, steps = config.model, spec.length
    if config.truncate.supervised != "same":  # other parts of the sequence, in windows
        return 0
    if config.truncate.steps:
        steps = min(steps, config.truncate.steps)
    layers = model.num_layers * (2 if model.bidirectional else 1)
    size = 2 if model.compute_dtype == "bfloat16" else _FLOAT
    return steps * layers * model.hidden_size * size


def _kept_by_decoder(config: Any) -> int:
    """The same of an auxiliary loss, which decodes a segment at every anchor."""
    aux, model = config.aux, config.model
    if aux.kind == "none":
        return 0
    size = 2 if model.compute_dtype == "bfloat16" else _FLOAT
    width = aux.decoder_width or model.hidden_size
    return aux.n_anchors * (aux.segment_length - 1) * aux.decoder_layers * width * size


def _words(spec: DataSpec) -> int:
    """Bytes of the words of one picture's captions: what is read, and what is asked for."""
    return 0 if spec.captions is None else 2 * _FLOAT * spec.captions.per_image * spec.length


def _width(spec: DataSpec) -> int:
    """Of a step of the input, the least where there are several inputs."""
    return 1 if spec.inputs else spec.features


def _first_width(config: Any) -> int:
    """Of what the input is mapped to first."""
    return config.model.embedding_size or config.model.hidden_size


def _check(parts: dict[str, int], mesh: Mesh) -> None:
    """Raises UserError where what is needed at least is more than a device has."""
    available, where = memory_of(mesh.devices.flat[0])
    needed, largest = sum(parts.values()), max(parts, key=lambda part: parts[part])
    if 0 < available < needed:
        raise UserError(
            f"at least {needed / 2**30:,.1f} GiB are needed, and {where} has"
            f" {available / 2**30:,.1f}: most of it for {largest}"
        )
