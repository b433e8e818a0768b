"""Auxiliary losses: from the state at an anchor, a decoder rebuilds or predicts a segment.

Trinh, Dai, Luong and Le (2018), "Learning Longer-term Dependencies in RNNs with Auxiliary Losses",
arXiv:1803.00144. `reconstruct` (r-LSTM) decodes a segment before the anchor, `predict` (p-LSTM) one
after it. Neither code nor all details of the paper are public; what is a choice of this project
stands in `docs/decisions/training.md`.

The main forward pass runs once. Where gradients are truncated it is not differentiated at all:
for each loss the window that its gradient reaches is run again from the stopped state before it.
All lengths are static, so that nothing is compiled anew when an anchor moves.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry
from lrd_jax.data.spec import Dataset
from lrd_jax.metrics import FROM_ZERO, Metric
from lrd_jax.models import make_decoder, make_embedding, make_table, supervised_reach
from lrd_jax.objectives.auxiliary_options import KINDS, check_fit
from lrd_jax.objectives.base import Sums, blank, encode
from lrd_jax.objectives.baselines import Frequencies, Moments
from lrd_jax.objectives.outputs import Decoded, Outputs
from lrd_jax.objectives.segments import Segments
from lrd_jax.objectives.sequence import SequenceObjective
from lrd_jax.recurrence import Masks, RecurrenceOutput, take_states, take_windows
from lrd_jax.streams import StepContext

_AT_ONCE = 2**26  # numbers of segments that trivial predictions are made of at a time


class Auxiliary:
    """A task's objective with auxiliary losses added; see `Objective`.

    The metrics are the task's own and `aux_loss`: the mean of a decoder's loss over steps, anchors
    and examples (of two decoders the mean, with `reconstruct_loss` and `predict_loss` beside it).
    What is minimised is `aux.weight` times that, and from the end of pre-training on the task's
    loss as well. An example counts in it by its scored labels (`SequenceObjective.share`).
    Evaluation uses anchors at fixed, even distances.

    Who differentiates what. N is `truncate.steps`, M what `truncate.supervised` comes to ("same":
    N); "the pass" is the forward pass over the whole sequence, a "window" some of its steps run
    once more, from the stopped state before them:

    | N   | M   | labels                   | decoders                         |
    |-----|-----|--------------------------|----------------------------------|
    | 0   | 0   | the pass                 | the pass                         |
    | 0   | > 0 | a window: the last M     | the pass                         |
    | > 0 | 0   | the pass                 | windows: N steps, to each anchor |
    | > 0 | > 0 | a window: the last M     | windows: N steps, to each anchor |

    With "stop" the labels train the head alone. A pass that neither uses is not differentiated.
    Labels at many steps ("tag") cannot share one window, so with M > 0 they use a pass that is
    itself cut every M steps; the decoders then use windows also at N = 0, of all steps before the
    anchor.
    """

    def __init__(self, config: Any, task: SequenceObjective) -> None:
        """Adds decoders to the network of a task.

        Args:
          config: the run's config.
          task: its objective without auxiliary losses.

        Raises:
          UserError: a value that is unknown or does not fit.
        """
        aux, spec = config.aux, task.spec
        check_fit(config, spec)
        self.spec, self.horizon, self.task, self.aux = spec, task.horizon, task, aux
        self.kinds = KINDS[aux.kind]
        parts = [f"{kind}_loss" for kind in self.kinds] if len(self.kinds) > 1 else []
        own = (Metric(name, range=FROM_ZERO) for name in ("aux_loss", *parts))
        self.metrics = (*task.metrics, *own)
        self.select = task.select
        self.segments = {
            kind: Segments(kind, spec.length, aux.segment_length, aux.gap) for kind in self.kinds
        }

        own_table = aux.embedding == "decoder"
        # The main network's table is the decoder's too: one parameter, one update.
        self._shares = config.model.embedding == "table" and not own_table
        self._looks_up = own_table or self._shares
        auto = "ce" if spec.symbols or self._looks_up else "mse"
        kind = auto if aux.loss == "auto" else aux.loss
        self.outputs = Outputs(spec, cross_entropy=kind == "ce", looks_up=self._looks_up)
        embedding = None
        if own_table:
            embedding = make_table(config, spec.values, "aux.embedding=decoder")
        elif not self._shares:
            embedding = make_embedding(config, spec.values)
        steps = aux.segment_length - 1
        self.decoders = {
            kind: make_decoder(config, steps, self.outputs.width, embedding) for kind in self.kinds
        }

        # ---- Which pass carries which gradient --------------------------------------------------
        self._reach: int = config.truncate.steps
        supervised = supervised_reach(config, spec.length)
        uncut = task.model.clone(recurrence=task.model.recurrence.clone(truncate_steps=0))
        self._window_model = uncut
        # Losses on many steps cannot share one window: their windows are cut into the pass itself.
        many = spec.kind in ("tag", "regress_steps", "forecast")
        self._model = task.model if many and supervised else uncut
        self._labels_stopped = supervised is None
        self._labels_window = 0 if many else supervised or 0
        labels_use_pass = supervised is not None and self._labels_window == 0
        self._decoders_use_pass = self._reach == 0 and self._model is uncut
        self._differentiates_pass = labels_use_pass or self._decoders_use_pass

    # ---- Contract of an objective ---------------------------------------------------------------

    def init(self, key: Array) -> Any:
        """Parameters of one seed; those of the main network are the same without decoders."""
        params = self.task.init(key)
        cell = self.task.model.recurrence.cell
        state = cell.initialize_carry(key, (1, 1))
        values = self.outputs.values(blank(self.spec, self.aux.segment_length - 1))
        for kind, decoder in self.decoders.items():
            own = jax.random.fold_in(key, zlib.crc32(kind.encode()))
            embed = self._embed(params)
            params[f"decoder_{kind}"] = decoder.init(own, state, values, embed)["params"]
        return params

    def initial_carry(self, batch_size: int) -> Any:
        """Nothing travels between batches of independent sequences."""
        return self.task.initial_carry(batch_size)

    def loss(
        self,
        variables: Any,
        carry: Any,
        batch: dict[str, Array],
        step: StepContext | None,
    ) -> tuple[Array, tuple[Sums, Any]]:
        """See `Objective.loss`."""
        params, stored = variables["params"], batch["inputs"]
        examples, length = stored.shape[:2]
        main = self._main(params)
        masks = self._model.recurrence.draw(self.task.in_force(step), length, examples)
        differentiated = main if self._differentiates_pass else jax.lax.stop_gradient(main)
        values = self.task.noisy(self.task.values(stored), step)
        whole = self._model.apply(
            {**variables, "params": differentiated}, values, masks, method="run"
        )
        rerun = functools.partial(self._rerun, main, values, whole, masks)

        # ---- The task's loss --------------------------------------------------------------------
        out = whole
        if self._labels_window and step is not None:
            out = rerun(jnp.array([length - self._labels_window]), self._labels_window)
        features = self.task.model.features(out)
        if self._labels_stopped:
            features = jax.lax.stop_gradient(features)
        outputs = self.task.model.apply({"params": main}, features, step, method="read")
        total, sums = self.task.scored(outputs, batch, step)
        if step is not None:
            total = jnp.where(self.horizon.is_joint(step.number), total, 0)

        # ---- The auxiliary losses ---------------------------------------------------------------
        losses = {}
        for kind in self.kinds:
            segments = self.segments[kind]
            if step is None:
                anchors, starts = map(jnp.asarray, segments.spread(self.aux.n_anchors))
            else:
                anchors, starts = segments.draw(step, self.aux.n_anchors, self.aux.scope, examples)
            state = self._states(kind, whole, anchors, None if step is None else rerun)
            segment = self._cut_out(kind, stored, starts)
            outputs = self._decode(kind, params, state, segment, step)
            each = self.outputs.cost(outputs, segment[:, 1:])
            losses[kind] = each.reshape(-1, examples).mean(0)
        mean = sum(losses.values()) / len(losses)
        named = {"aux_loss": mean}
        if len(losses) > 1:
            named |= {f"{kind}_loss": each for kind, each in losses.items()}
        # The step divides everything by the number of scored labels: examples count by theirs.
        share = self.task.share(batch)
        sums = sums | {name: ((each * share).sum(), share.sum()) for name, each in named.items()}
        return total + self.aux.weight * sums["aux_loss"][0], (sums, carry)

    def collect(self, params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        """What the task's metrics collect, see `Objective.collect`."""
        return self.task.collect(self._main(params), batch)

    def baselines(self, dataset: Dataset, split: str) -> Mapping[str, float]:
        """The task's baselines, and what trivial predictions score as `aux_loss` on a split.

        All are for the anchors that evaluation uses. `aux_loss_mean` is the best constant (of
        cross-entropy: the frequency of each value), `aux_loss_position_mean` the best constant for
        each position, `aux_loss_previous` saying the value read last once more (of cross-entropy:
        the frequency of each value after it), and `aux_loss` the least of them. Constants and
        frequencies are those of the split itself.
        """
        found = [self._trivial(dataset, split, kind) for kind in self.kinds]
        mean = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
        return {
            **self.task.baselines(dataset, split),
            "aux_loss": min(mean.values()),
            **{f"aux_loss_{name}": value for name, value in mean.items()},
        }

    # ---- What the decoders learnt ---------------------------------------------------------------

    def decoded(self, params: Any, batch: dict[str, Array]) -> dict[str, Decoded]:
        """Decodes the segment of the middle anchor, kind by kind.

        Args:
          params: of one seed.
          batch: as in `Objective.loss`.
        """
        stored, result = batch["inputs"], {}
        main = self._main(params)
        masks = self._model.recurrence.draw(None, stored.shape[1], len(stored))
        whole = self._model.apply({"params": main}, self.task.values(stored), masks, method="run")
        for kind, segments in self.segments.items():
            anchors, starts = segments.spread(1)
            state = self._states(kind, whole, jnp.asarray(anchors), None)
            segment = self._cut_out(kind, stored, jnp.asarray(starts))
            decode = functools.partial(self._decode, kind, params, state, segment, None)
            alone = None
            if self.aux.decoder_feed != "none":
                alone = self._in_order(kind, self.outputs.seen(decode(alone=True)))
            result[kind] = Decoded(
                # In reverse, what is not decoded is the last step.
                start=int(starts[0]) - self._reverses(kind),
                true=self._in_order(kind, encode(segment[:, 1:], self.spec)),
                decoded=self._in_order(kind, self.outputs.seen(decode())),
                alone=alone,
            )
        return result

    # ---- Parts ----------------------------------------------------------------------------------

    def _main(self, params: Any) -> Any:
        """The parameters of the main network."""
        return {name: p for name, p in params.items() if not name.startswith("decoder_")}

    def _embed(self, params: Any) -> Any:
        """The main network's embedding where the decoder shares it, else None."""
        if not self._shares:
            return None
        main = {"params": self._main(params)}
        return functools.partial(self.task.model.apply, main, method="embed")

    def _rerun(
        self,
        main: Any,
        values: Array,
        whole: RecurrenceOutput,
        masks: Masks,
        starts: Array,
        size: int,
    ) -> RecurrenceOutput:
        """Runs windows of the sequences again, from stopped states."""
        args = (take_windows(values, starts, size), whole, starts, masks)
        return self._window_model.apply({"params": main}, *args, method="rerun")

    def _states(self, kind: str, whole: RecurrenceOutput, anchors: Array, rerun: Any) -> Carry:
        """The state after each anchor's step, leaves `(anchors * batch, d)`.

        Args:
          kind: of the loss.
          whole: of the whole sequences.
          anchors: `(anchors,)` or `(anchors, batch)`.
          rerun: see `_rerun`; None: gradients are not asked for.
        """
        if rerun is None or self._decoders_use_pass:
            return take_states(whole.layers[-1], anchors)
        size = self._reach or self.spec.length
        starts = jnp.maximum(anchors - size + 1, 0)
        out = rerun(starts, size)
        if self.segments[kind].first >= size - 1:  # every window ends at its anchor
            return out.final[-1]
        examples = len(out.last) // len(anchors)
        at = jnp.broadcast_to(
            (anchors - starts).reshape(len(anchors), -1), (len(anchors), examples)
        )
        return take_states(out.layers[-1], at.reshape(1, -1))

    def _reverses(self, kind: str) -> bool:
        return self.aux.reverse and kind == "reconstruct"

    def _in_order(self, kind: str, x: Array) -> Array:
        """Brings `(rows, steps, ...)` from the order of decoding into that of time, or back."""
        return x[:, ::-1] if self._reverses(kind) else x

    def _cut_out(self, kind: str, stored: Array, starts: Array) -> Array:
        """The segments in the order in which they are decoded, `(anchors * batch, L, channels)`."""
        return self._in_order(kind, take_windows(stored, starts, self.aux.segment_length))

    def _decode(
        self,
        kind: str,
        params: Any,
        state: Carry,
        segment: Array,
        step: StepContext | None,
        alone: bool = False,
    ) -> Array:
        """What the decoder says of the steps of segments after their first.

        Args:
          kind: of the loss.
          params: of the whole network.
          state: where it starts from, leaves `(anchors * batch, d)`.
          segment: from `_cut_out`.
          step: the training step; None in evaluation.
          alone: whether it reads its own outputs, however it was trained.

        Returns:
          `(anchors * batch, L - 1, outputs)`.
        """
        values = self.outputs.values(segment[:, :-1])
        own = key = None
        if step is not None:
            key = step.shared(f"dropconnect_{kind}")
        if alone or self.aux.decoder_feed == "scheduled":
            rows, steps = values.shape[:2]
            if step is None:
                own = jnp.ones((rows, steps), bool)
            else:
                rate, anchors = self.horizon.phase_progress(step.number), self.aux.n_anchors
                draw = functools.partial(jax.random.bernoulli, p=rate, shape=(anchors, steps))
                keys = step.per_example(f"feed_{kind}", rows // anchors)
                own = jnp.swapaxes(jax.vmap(draw)(keys), 0, 1).reshape(rows, steps)
            own = own.at[:, 0].set(False)
        decoder: Any = self.decoders[kind]
        return decoder.apply(
            {"params": params[f"decoder_{kind}"]},
            state,
            values,
            self._embed(params),
            own=own,
            to_values=lambda outputs: self.outputs.read_back(outputs).astype(values.dtype),
            later_inputs=self.aux.decoder_feed != "none",
            key=key,
        )

    def _trivial(self, dataset: Dataset, split: str, kind: str) -> dict[str, float]:
        """What trivial predictions score, see `baselines`."""
        _, starts = self.segments[kind].spread(self.aux.n_anchors)
        size = self.aux.segment_length
        statistics: Any = Frequencies(self.spec.values) if self.outputs.cross_entropy else Moments()
        each = len(starts) * size * self.spec.features  # numbers of an example, of all segments
        most = max(1, min(1000, _AT_ONCE // each, dataset.eval_size(split)))
        for batch in dataset.eval_batches(split, most):
            stored = np.asarray(batch["inputs"])[batch["mask"] > 0]
            cut = np.stack([stored[:, start : start + size] for start in starts], axis=1)
            if self._reverses(kind):
                cut = cut[:, :, ::-1]
            if not self.outputs.cross_entropy:
                seen = encode(jnp.asarray(cut.reshape(-1, size, cut.shape[-1])), self.spec)
                cut = np.asarray(seen, np.float64).reshape(*cut.shape[:3], -1)
            statistics.add(cut)
        return statistics.scores()
