"""Who trains side by side, and which swept values are refused."""

import pytest

from lrd_jax.config import checks, defaults, record
from lrd_jax.config.members import SWEPT, Member, labels, members
from lrd_jax.errors import UserError


def make_config(**overrides):
    config = defaults.get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return config


def test_members_are_all_values_with_all_seeds():
    config = make_config(
        seed=3, num_seeds=2, sweep__learning_rate=(1e-3, 3e-4), sweep__p_block=(0, 0.5)
    )
    found = members(config)
    assert [(m.swept["learning_rate"], m.swept["p_block"], m.seed) for m in found] == [
        (rate, p, seed) for rate in (1e-3, 3e-4) for p in (0.0, 0.5) for seed in (3, 4)
    ]
    assert labels(found)[1] == {"seed": 4, "learning_rate": 1e-3, "p_block": 0.0}
    assert str(Member(2**31 - 2, {})) == "seed 2147483646"
    assert str(found[-1]) == "learning_rate 0.0003, p_block 0.5, seed 4"


def test_only_a_run_without_others_needs_no_label():
    assert members(make_config(seed=7)) == [Member(7, {})]
    assert labels(members(make_config(seed=7))) == [{}]
    assert labels(members(make_config(num_seeds=2))) == [{"seed": 0}, {"seed": 1}]
    one_value = members(make_config(sweep__clip_norm=(0.5,)))
    assert labels(one_value) == [{"seed": 0, "clip_norm": 0.5}]


def test_every_swept_name_stands_for_a_number_in_the_config():
    flat = record.flatten(defaults.get_config())
    assert all(isinstance(flat[key], float) for key in SWEPT.values())
    assert {key.removeprefix("sweep.") for key in flat if key.startswith("sweep.")} == set(SWEPT)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sweep__learning_rate": (1e-3, 0.0)}, "config.sweep.learning_rate=(0.001, 0.0): config"),
        ({"sweep__learning_rate": (1e-3, float("nan"))}, "must be a finite number"),
        ({"sweep__clip_norm": (-1.0,)}, "config.optim.clip_norm=-1.0: must be 0 or more"),
        ({"sweep__p_block": (0.5, 0.5)}, "must be a tuple of different values"),
        ({"sweep__p_block": (0, 0.0)}, "must be a tuple of different values"),
        ({"sweep__p_block": ("a",)}, "must be a tuple of numbers"),
        ({"sweep__p_block": (True,)}, "must be a tuple of numbers"),
        ({"devices__split": "rows"}, "config.devices.split='rows': must be batch or seeds"),
    ],
)
def test_wrong_values_are_refused(overrides, message):
    with pytest.raises(UserError) as caught:
        checks.validate(make_config(**overrides))
    assert message in str(caught.value) and "\n" not in str(caught.value)
