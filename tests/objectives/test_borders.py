"""Values at the border of what is allowed, and anchors by hand."""

import numpy as np
import pytest

from lrd_jax.config import defaults
from lrd_jax.config.horizon import Horizon
from lrd_jax.data.spec import DataSpec, InputSpec
from lrd_jax.errors import UserError
from lrd_jax.objectives import make_evaluated
from lrd_jax.objectives.auxiliary import Auxiliary
from lrd_jax.objectives.auxiliary_options import check_options
from lrd_jax.objectives.base import blank, encode
from lrd_jax.objectives.segments import Segments


@pytest.mark.parametrize(
    ("key", "fits", "refused"),
    [
        ("n_anchors", (1, 100_001), (0,)),
        ("decoder_layers", (1, 100_001), (0,)),
        ("decoder_width", (0, 1, 100_001), (-1,)),
        ("weight", (0.0, 2.0), (-0.001,)),
        ("head_hidden", ((), (1,), (3, 1)), ((0,), (3, 0))),
    ],
)
def test_options_of_auxiliary_losses(key, fits, refused):
    aux = defaults.get_config().aux
    for value in fits:
        aux[key] = value
        check_options(aux)
    for value in refused:
        aux[key] = value
        with pytest.raises(UserError, match=rf"aux\.{key}="):
            check_options(aux)


@pytest.mark.parametrize("gap", [-1, 0, 1, 3])
@pytest.mark.parametrize("length", [8, 9, 30])
def test_the_longest_segment_is_the_longest_that_fits(length, gap):
    longest = Segments.longest(length, gap)
    for kind in ("reconstruct", "predict"):
        Segments(kind, length, longest, gap)
    with pytest.raises(UserError):
        Segments("reconstruct", length, longest + 1, gap)


def test_a_segment_has_two_steps():
    assert Segments.longest(3, 0) == Segments.longest(2, 0) == Segments.longest(5, 9) == 2
    Segments("predict", 5, 2)
    with pytest.raises(UserError, match="at least 2 steps"):
        Segments("predict", 5, 1)
    with pytest.raises(UserError, match="gap=-2"):
        Segments("predict", 5, 2, -2)


@pytest.mark.parametrize(
    ("segments", "anchors", "starts"),
    [
        (Segments("predict", 12, 4), [1, 4, 7], [1, 4, 7]),  # of 0 .. 8
        (Segments("predict", 12, 4, 2), [1, 3, 5], [3, 5, 7]),  # of 0 .. 6
        (Segments("predict", 12, 4, -1), [1, 4, 7], [4, 6, 7]),  # gaps of 7, 4 and 1 at most
        (Segments("reconstruct", 12, 4), [5, 8, 10], [1, 4, 6]),  # of 4 .. 11
        (Segments("reconstruct", 12, 4, 2), [7, 9, 11], [1, 3, 5]),  # of 6 .. 11
        (Segments("reconstruct", 12, 4, -1), [5, 8, 10], [1, 2, 3]),  # gaps of 1, 4 and 6 at most
    ],
)
def test_anchors_of_an_evaluation(segments, anchors, starts):
    found = segments.spread(3)
    np.testing.assert_array_equal(found[0], anchors)
    np.testing.assert_array_equal(found[1], starts)


@pytest.mark.parametrize(("asked", "length"), [(600, 10), (4, 4)])
def test_what_is_evaluated_alone_limits_no_gradient(asked, length):
    """And a segment is as long as fits: here 12 steps less the anchor and the gap."""
    config = defaults.get_config()
    config.update_from_flattened_dict(
        {
            "truncate.steps": 3,
            "truncate.supervised": "stop",
            "detach.p_block": 0.5,
            "detach.off_last_epochs": 9,
            "aux.kind": "reconstruct",
            "aux.gap": 1,
            "aux.segment_length": asked,
        }
    )
    before = config.to_json()
    objective = make_evaluated(config, DataSpec("classify", 12, 2, 4))
    assert isinstance(objective, Auxiliary) and config.to_json() == before
    assert objective.segments["reconstruct"] == Segments("reconstruct", 12, length, 1)
    assert objective.aux.segment_length == length
    task = objective.task
    assert task.model.recurrence.truncate_steps == task.off_last_epochs == 0
    assert objective.horizon == Horizon(1, 1)


def test_one_of_several_inputs_is_seen_as_it_is_stored():
    """Unless its spec says more."""
    spec = DataSpec("classify", 9, 1, 2, inputs={"image": InputSpec((2, 3))})
    stored = {"image": np.arange(6.0).reshape(1, 2, 3)}
    np.testing.assert_array_equal(encode(stored, spec)["image"], stored["image"])
    assert blank(spec, 9)["image"].shape == (1, 2, 3)
    assert np.issubdtype(blank(spec, 9)["image"].dtype, np.floating)
