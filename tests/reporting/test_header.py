import pytest

from lrd_jax.config import defaults
from lrd_jax.reporting.header import model_line


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {},
            ["lstm, 1 layer of 128 units, 12 345 parameters, no h-detach, no trunc", "no aux"],
        ),
        ({"model.cell": "urlstm", "model.num_layers": 2}, ["urlstm (gates UR), 2 layers of 128"]),
        ({"model.cell": "gated_lstm", "model.gates": "O-"}, ["gated_lstm (gates O-)"]),
        ({"model.cell": "gated_gru"}, ["gated_gru (gates UR, reset gate --)"]),
        ({"model.bidirectional": True}, ["1 bidirectional layer of"]),
        ({"detach.p_block": 0.25, "detach.c_block": 0.1}, ["h-detach 0.25, c-detach 0.1"]),
        ({"sweep.p_block": (0.0, 0.5)}, ["h-detach 0 | 0.5"]),
        ({"truncate.steps": 75}, ["truncated to 75 steps, no"]),
        ({"truncate.steps": 75, "truncate.supervised": "stop"}, ["(labels train the head alone)"]),
        ({"aux.kind": "predict"}, ["auxiliary loss predict (p-LSTM) of 600 steps"]),
    ],
)
def test_the_header_says_what_is_trained(changes, parts):
    config = defaults.get_config()
    config.update_from_flattened_dict(changes)
    line = model_line(config, 12_345)
    assert "\n" not in line and all(part in line for part in parts), line
