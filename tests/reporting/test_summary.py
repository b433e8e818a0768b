import jax.numpy as jnp
import pytest

from lrd_jax.reporting import summary

PARAMS = {"cell": {"kernel": jnp.zeros((3, 40)), "bias": jnp.zeros((40,))}}


def result(**changes):
    metrics = {"loss": 0.25, "accuracy": 0.9}
    return {
        "best": {"step": 700, "valid": metrics},
        "test": {"loss": 0.3, "accuracy": 0.88},
        "wall_time_s": 3723.4,
    } | changes


def test_startup_names_everything_a_reader_needs():
    text = summary.startup(
        config_name="urlstm_pdigits",
        workdir="runs/x",
        data="digits: 1297 training examples",
        params=PARAMS,
        num_seeds=3,
    )
    rows = text.splitlines()
    assert any("cell/kernel" in row and "(3, 40)" in row and "120" in row for row in rows)
    assert any(row.startswith("Total: 160") and row.endswith("(each of 3 seeds)") for row in rows)
    assert "config   urlstm_pdigits" in rows and "workdir  runs/x" in rows
    assert "data     digits: 1297 training examples" in rows
    (device,) = (row for row in rows if row.startswith("device "))
    assert "(cpu), JAX " in device or "(gpu), JAX " in device


def test_closing_of_a_single_run():
    text = summary.closing(result(), config_flag="configs/a.py:H6", workdir="runs/my run")
    assert text.splitlines() == [
        "best step   700",
        "validation  loss 0.2500, accuracy 90.00 %",
        "test        loss 0.3000, accuracy 88.00 %",
        "wall time   1:02:03",
        "workdir     runs/my run",
        "evaluate    python -m lrd_jax.main --config=configs/a.py:H6 --workdir='runs/my run' "
        "--mode=eval",
        "curves      tensorboard --logdir='runs/my run/tensorboard'",
    ]


def test_closing_of_several_seeds_gives_mean_and_spread():
    seeds = [
        {
            "seed": seed,
            "best": {"step": 100 * (seed + 1), "valid": {"accuracy": 0.9 + 0.01 * seed}},
            "test": {"accuracy": value},
        }
        for seed, value in enumerate((0.80, 0.84, None))  # the third one ended in NaN
    ]
    text = summary.closing(result(seeds=seeds), config_flag="c.py", workdir="w")
    assert "best step   100 to 300" in text
    assert "validation  accuracy 91.00 ± 1.00 % (3 seeds)" in text
    assert "test        accuracy 82.00 ± 2.83 % (3 seeds)" in text


@pytest.mark.parametrize("value", [None, float("nan")])
def test_closing_survives_a_missing_value(value):
    text = summary.closing(result(test={"loss": value}), config_flag="c.py", workdir="w")
    assert "test        loss nan" in text


def test_evaluation_of_one_seed_and_of_several():
    def seed(number, accuracy):
        best = {"step": 10 * number, "valid": {}}
        return {"seed": number, "best": best, "valid": {"loss": 0.5, "accuracy": accuracy}}

    one = {"split": "valid", "overrides": {"eval.split": "valid"}, "seeds": [seed(3, 0.8)]}
    assert summary.evaluation(one, "runs/x/eval/valid.json").splitlines() == [
        "valid       loss 0.5000, accuracy 80.00 % (best step 30)",
        "written to  runs/x/eval/valid.json",
    ]
    two = {
        "split": "valid",
        "overrides": {"data.permutation": "none"},
        "seeds": [seed(1, 0.8), seed(2, 0.9)],
    }
    assert summary.evaluation(two, "v.json").splitlines() == [
        "data.permutation  none",
        "seed 1            loss 0.5000, accuracy 80.00 % (best step 10)",
        "seed 2            loss 0.5000, accuracy 90.00 % (best step 20)",
        "valid             loss 0.5000 ± 0.0000, accuracy 85.00 ± 7.07 % (2 seeds)",
        "written to        v.json",
    ]
