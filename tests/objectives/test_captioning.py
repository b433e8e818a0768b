"""Captioners, their loss and their decoding: oracles ORC-37 to ORC-41."""

import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.config import defaults
from lrd_jax.config.horizon import Horizon
from lrd_jax.data.captions import CaptionDataset, Features, Picture
from lrd_jax.errors import UserError
from lrd_jax.metrics import collected
from lrd_jax.models import Captioner, make_captioner
from lrd_jax.objectives import make_evaluated, make_objective
from lrd_jax.objectives.base import encode
from lrd_jax.objectives.beam import Decoding, decode
from lrd_jax.recurrence.controls import Masks
from lrd_jax.streams import StepContext

CAPTIONS = ("a b", "a c b", "b b a c b", "c", "a")
SHOW_TELL, ATTEND = "show_tell", "show_attend_tell"


def config(caption, **changes):
    c = defaults.get_config()
    c.data.name = "shapes"
    c.model.caption = caption
    c.model.hidden_size, c.model.embedding_size, c.model.attention_size = 6, 5, 4
    c.update_from_flattened_dict(changes)
    return c


def dataset(pictures=6, att=True, **options):
    rng = np.random.default_rng(0)
    made = [
        Picture.of_raw(f"{i}.png", 10 + i, split, CAPTIONS[i % 3 : i % 3 + 2])
        for i, split in enumerate(["train"] * (pictures - 3) + ["valid", "test", "test"])
    ]
    features = Features(
        rng.normal(size=(pictures, 7)).astype(np.float32),
        rng.normal(size=(pictures, 4, 3)).astype(np.float16),
        {picture.name: row for row, picture in enumerate(made)},
        "made",
    )
    options = {
        "name": "made",
        "batch_size": 2,
        "captions_per_image": 2,
        "max_words": 3,
        "min_count": 0,
        "vocabulary_from": "train",
        "standardise": False,
        "att": att,
    } | options
    return CaptionDataset(made, features, **options)


def make_trained(config, spec):
    return make_objective(config, spec, Horizon(1, 1))


def objective(caption, data=None, **changes):
    data = data or dataset()
    made = make_objective(config(caption, **changes), data.spec, Horizon(1, 1))
    return made, made.init(jax.random.key(1)), data


@pytest.mark.parametrize("caption, count", [(SHOW_TELL, 12_871_440), (ATTEND, 18_378_001)])
def test_number_of_parameters(caption, count):
    """ORC-37: V = 9487, F = 2048, d = e = 512, no bias in the cell."""
    c = defaults.get_config()
    c.model.caption, c.model.use_bias, c.model.forget_bias = caption, False, 0.0
    c.model.hidden_size = c.model.embedding_size = 512
    model = make_captioner(c, vocabulary_size=9488, length=17, fc_features=2048, att_features=2048)
    inputs = {
        "words": jnp.zeros((1, 1, 2), int),
        "fc": jnp.zeros((1, 2048)),
        "att": jnp.zeros((1, 2, 2048)),
    }
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


STACKED = {"model.num_layers": 2, "model.block": "prenorm"}


@pytest.mark.parametrize(
    ("caption", "changes"), [(SHOW_TELL, {}), (ATTEND, {}), (SHOW_TELL, STACKED)]
)
def test_loss_is_the_sum_over_words(caption, changes):
    """ORC-38: by hand, one word at a time, through the decoder's face; padding counts nothing."""
    made, params, data = objective(caption, **changes)
    batch = next(data.eval_batches("test", 3))
    total, (sums, _) = made.loss({"params": params}, (), batch, None)
    model, inputs = made.model, encode(batch["inputs"], data.spec)
    variables = {"params": params}
    carries, memory = model.apply(variables, inputs, 2, method=Captioner.begin)
    read = jax.jit(functools.partial(model.apply, method=Captioner.next))
    by_hand = 0.0
    targets = batch["targets"].reshape(-1, 4)
    words = batch["inputs"]["words"].reshape(-1, 4)
    scored = (targets >= 0) & np.repeat(batch["mask"] > 0, 2)[:, None]
    for t in range(4):
        carries, logits = read(variables, carries, memory, words[:, t])
        logp = jax.nn.log_softmax(logits)
        by_hand -= sum(logp[i, targets[i, t]] for i in np.flatnonzero(scored[:, t]))
    assert total == pytest.approx(float(by_hand), rel=1e-5)
    assert sums["loss"][1] == scored.sum()


def gradients(params, made, batch, blocked):
    """Of the last step's loss with respect to a shift of h_0 and of c_0."""
    model, length = made.model, 4
    inputs = encode(batch["inputs"], made.spec)
    mask = jnp.full(length, blocked)

    def last(shift):
        bound = model.bind({"params": params})
        memory = bound._memory(inputs)
        (start,) = bound._initial(bound.picture(inputs["fc"]), 2)
        start = start._replace(c=start.c + shift["c"], h=start.h + shift["h"])
        x = bound.words[inputs["words"].reshape(-1, length)]
        out = bound.recurrence(
            x, initial=(start,), masks=Masks((mask,), (None,), (None,)), context=memory
        )
        return (out.outputs[:, -1] ** 2).sum()

    zero = jnp.zeros((len(batch["mask"]) * 2, 6))
    return jax.jit(jax.value_and_grad(last))({"c": zero, "h": zero})


def test_attention_and_blocked_gradients():
    """ORC-39: values do not depend on the mask; the query is a path of its own, unless stopped."""
    attached, params, data = objective(ATTEND, **{"detach.p_block": 0.5})
    stopped, *_ = objective(ATTEND, **{"detach.p_block": 0.5, "detach.attention_query": True})
    batch = next(data.eval_batches("test", 2))
    free, _ = gradients(params, attached, batch, False)
    value, through_query = gradients(params, attached, batch, True)
    same, nothing = gradients(params, stopped, batch, True)
    assert free == value == same
    assert jnp.abs(through_query["h"]).max() > 0
    assert (nothing["h"] == 0).all()
    assert jnp.abs(nothing["c"]).max() > 0


def test_attention_weights():
    """ORC-39: they sum to 1, are uniform over equal parts; the order of parts means nothing."""
    made, params, data = objective(ATTEND)
    batch = next(data.eval_batches("train", 3))
    inputs = encode(batch["inputs"], data.spec)
    inputs["words"] = inputs["words"][:, :1]
    variables = {"params": params}
    look = jax.jit(functools.partial(made.model.apply, method=Captioner.attention))
    weights = look(variables, inputs)
    assert weights.shape == (3, 4, 4)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    equal = {**inputs, "att": jnp.broadcast_to(inputs["att"][:, :1], inputs["att"].shape)}
    uniform = look(variables, equal)
    np.testing.assert_allclose(uniform, 0.25, rtol=1e-5)
    turned = {**inputs, "att": inputs["att"][:, ::-1]}
    seen = look(variables, turned)
    np.testing.assert_allclose(seen[..., ::-1], weights, rtol=1e-5)
    features = [jax.jit(made.model.apply)(variables, each)[0] for each in (inputs, turned)]
    np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-6)


def test_first_draw_reaches_what_makes_the_state():
    """With every step blocked the map of `fc` still learns, by c and by the query."""
    made, params, data = objective(ATTEND, **{"detach.p_block": 1.0})
    batch, step = data.train_batch(0, 0, slice(None)), StepContext(jax.random.key(0))
    loss = jax.jit(lambda p: made.loss({"params": p}, (), batch, step)[0])
    grads = jax.grad(loss)(params)
    assert jnp.abs(grads["picture"]["kernel"]).max() > 0


# ---- Decoding: ORC-40 ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[SHOW_TELL, ATTEND])
def small(request):
    """A model far from uniform, three pictures, and what a pass over any words says of them."""
    made, params, data = objective(request.param)
    params = jax.tree.map(lambda leaf: 3 * leaf, params)
    batch = next(data.eval_batches("train", 3))
    inputs = encode(batch["inputs"], data.spec)
    words = range(1, data.spec.classes)
    captions = [c for count in range(4) for c in itertools.product(words, repeat=count)]
    read = np.zeros((3, len(captions), 4), np.int32)
    for number, caption in enumerate(captions):
        read[:, number, 1 : 1 + len(caption)] = caption
    features, readout = jax.jit(made.model.apply)({"params": params}, {**inputs, "words": read})
    logp = np.asarray(jax.nn.log_softmax(readout.logits(features)))
    logp = logp.reshape(3, len(captions), 4, -1)

    def score(picture, caption, ended):
        """Log probability of words, and of the end after them."""
        steps = logp[picture, captions.index(tuple(caption))]
        targets = [*caption, 0][: len(caption) + ended]
        return float(sum(steps[t, word] for t, word in enumerate(targets)))

    inputs.pop("words")
    found = {"made": made, "params": params, "inputs": inputs, "captions": captions}
    return SimpleNamespace(vocabulary=data.spec.classes, score=score, logp=logp, **found)


def decoded(small, how, inputs=None):
    inputs = inputs or small.inputs
    return jax.jit(decode, static_argnums=(0, 3))(
        small.made.model, small.params, inputs, how, inputs["picture"]
    )


def as_words(row):
    return list(itertools.takewhile(bool, row.tolist()))


def test_wide_beam_is_an_exhaustive_search(small):
    found = decoded(small, Decoding((small.vocabulary - 1) ** 3, 3))
    for picture in range(3):
        scores = {c: small.score(picture, c, len(c) < 3) for c in small.captions}
        best = max(scores, key=scores.__getitem__)
        assert as_words(found.words[picture]) == list(best)
        assert float(found.score[picture]) == pytest.approx(scores[best], abs=1e-5)


def test_beam_of_one_is_greedy(small):
    found, drawn = (decoded(small, how) for how in (Decoding(1, 3), Decoding(1, 3, 0.0, -1, 0.0)))
    np.testing.assert_array_equal(found.words, drawn.words)
    for picture in range(3):
        words = []
        while len(words) < 3:
            steps = small.logp[picture, small.captions.index(tuple(words))]
            if not (word := int(steps[len(words)].argmax())):
                break
            words.append(word)
        assert as_words(found.words[picture]) == words
        score = small.score(picture, words, len(words) < 3)
        assert float(found.score[picture]) == pytest.approx(score, abs=1e-5)


def test_neither_batch_nor_a_banned_word_matters_to_others(small):
    how = Decoding(2, 3)
    whole = decoded(small, how)
    alone = decoded(small, how, {name: array[1:2] for name, array in small.inputs.items()})
    np.testing.assert_array_equal(alone.words[0], whole.words[1])
    assert float(alone.score[0]) == pytest.approx(float(whole.score[1]), abs=1e-5)
    banned = int(whole.words[whole.words > 0][0])
    assert not (decoded(small, how._replace(banned=banned)).words == banned).any()
    wide = decoded(small, Decoding(small.vocabulary + 5, 3))  # more beams than words
    assert (wide.score >= whole.score - 1e-5).all()


def test_ending_first_gives_the_empty_caption(small):
    params = {**small.params, "output_bias": small.params["output_bias"].at[0].set(100.0)}
    found = decoded(SimpleNamespace(**vars(small) | {"params": params}), Decoding(2, 3))
    assert not found.words.any()
    np.testing.assert_allclose(found.score, 0, atol=1e-5)
    collected_words = {"words": np.asarray(found.words), "picture": np.arange(3)}
    values = {m.name: m.finish(collected_words) for m in collected(small.made.metrics)}
    assert values["cider"] == 0 and values["rouge_l"] == 0 and values["bleu_1"] < 1e-6


def test_equal_seeds_together_say_what_one_says(small):
    """An ensemble of equals is the one; of others its score is the mean probability."""
    how = Decoding(2, 3)
    one = decoded(small, how)
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), small.params)
    together = decoded(
        SimpleNamespace(**vars(small) | {"params": both}), how._replace(ensemble=True)
    )
    np.testing.assert_array_equal(together.words, one.words)
    np.testing.assert_allclose(together.score, one.score, atol=1e-5)


def test_length_power_prefers_longer_captions(small):
    counts = [
        (decoded(small, Decoding((small.vocabulary - 1) ** 3, 3, power)).words > 0).sum()
        for power in (0.0, 4.0)
    ]
    assert counts[1] >= counts[0]


def test_drawn_captions_depend_on_seed_and_picture_alone(small):
    how = Decoding(1, 3, temperature=1.0)
    draws = {seed: decoded(small, how._replace(seed=seed)).words for seed in range(6)}
    assert len({row.tobytes() for row in map(np.asarray, draws.values())}) > 1
    alone = decoded(
        small, how._replace(seed=3), {name: array[2:] for name, array in small.inputs.items()}
    )
    np.testing.assert_array_equal(alone.words[0], draws[3][2])


# ---- The objective ------------------------------------------------------------------------------


def test_hidden_pictures_have_one_caption(small):
    """ORC-41: without features nothing tells pictures apart."""
    hidden = {name: array * 0 for name, array in small.inputs.items()}
    assert len(np.unique(decoded(small, Decoding(2, 3), hidden).words, axis=0)) == 1


def test_draws_depend_on_the_place_in_the_global_batch():
    """ORC-42: dropout and h-detach of half a batch are those of the whole one."""
    made, params, data = objective(
        ATTEND, **{"detach.p_block": 0.5, "detach.scope": "example", "model.output_dropout": 0.5}
    )
    whole = data.train_batch(0, 0, slice(None))
    step = StepContext(jax.random.key(7))

    loss = jax.jit(lambda *args: made.loss({"params": params}, (), *args)[0])

    def total(rows, first):
        return float(loss(data.train_batch(0, 0, rows), step._replace(first=first)))

    halves = total(slice(0, 1), 0) + total(slice(1, 2), 1)
    assert halves == pytest.approx(float(loss(whole, step)), rel=1e-5)


def test_evaluation_decodes_as_asked():
    c = config(SHOW_TELL, **{"eval.beam_size": 3, "eval.allow_unknown": False})
    spec = dataset().spec
    how = make_evaluated(c, spec).how
    assert (how.beam_size, how.banned, how.temperature) == (3, spec.classes - 1, None)
    assert make_objective(c, spec, Horizon(1, 1)).how.beam_size == 1
    c.eval.decode, c.eval.temperature = "sample", 0.5
    assert make_evaluated(c, spec).how.temperature == 0.5


@pytest.mark.parametrize(
    "cell", ["gated_gru", *(pytest.param(c, marks=pytest.mark.slow) for c in ("gru", "urlstm"))]
)
def test_other_cells_attend(cell):
    made, params, data = objective(ATTEND, **{"model.cell": cell})
    shapes = jax.eval_shape(
        lambda p: made.loss({"params": p}, (), next(data.eval_batches("test", 2)), None)[0], params
    )
    assert shapes.shape == ()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.bidirectional": True}, "would read the words"),
        ({"truncate.steps": 2}, "a caption is short"),
        ({"truncate.supervised": "stop"}, "a caption is short"),
        ({"aux.kind": "predict"}, "set aux.kind=none"),
        ({"model.learn_initial": True}, "the picture makes the initial state"),
        ({"model.caption": "tell"}, "model.caption="),
        ({"model.attention_size": 0}, "at least 1"),
        ({"model.use_bias": False}, "model.forget_bias"),
        ({"eval.decode": "guess"}, "eval.decode="),
    ],
)
def test_refused(changes, message):
    make = make_evaluated if "eval.decode" in changes else make_trained
    with pytest.raises(UserError, match=message):
        make(config(ATTEND, **changes), dataset().spec)


def test_the_narrowest_attention_is_allowed():
    assert make_trained(config(ATTEND, **{"model.attention_size": 1}), dataset().spec)
