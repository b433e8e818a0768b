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
        model="lstm, 1 layer of 40 units",
        data="digits: 1297 training examples",
        params=PARAMS,
        num_members=3,
    )
    rows = text.splitlines()
    assert any("cell/kernel" in row and "(3, 40)" in row and "120" in row for row in rows)
    assert any(
        row.startswith("Total: 160") and row.endswith("(each of 3 side by side)") for row in rows
    )
    assert "config   urlstm_pdigits" in rows and "workdir  runs/x" in rows
    assert "model    lstm, 1 layer of 40 units" in rows
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
        "curves      tensorboard --logdir='runs/my run'",
    ]
    of_python = summary.closing(result(), config_flag="", workdir="runs/x")
    assert "evaluate    python -m lrd_jax.main --workdir=runs/x --mode=eval" in of_python


def test_closing_of_several_seeds_gives_mean_and_spread():
    seeds = [
        {
            "seed": seed,
            "best": {"step": 100 * (seed + 1), "valid": {"accuracy": 0.9 + 0.01 * seed}},
            "test": {"accuracy": value},
        }
        for seed, value in enumerate((0.80, 0.84, None))
    ]
    seeds[2]["first_nonfinite_step"] = 250
    text = summary.closing(result(seeds=seeds), config_flag="c.py", workdir="w")
    assert "best step   100 to 300" in text
    lines = text.splitlines()
    assert "validation  accuracy 91.00 ± 1.00 % [88.52, 93.48] (3 seeds)" in lines
    assert "test        accuracy 82.00 (80.00, 84.00) % (2 of 3 seeds)" in lines
    assert "[ ... ]     95% interval of the mean over seeds (Student's t)" in lines
    assert "NaN         seed 2 at step 250" in lines


def test_closing_of_a_sweep_is_a_table_then_the_best_value():
    def run(seed, rate, accuracy):
        return {
            "seed": seed,
            "sweep": {"learning_rate": rate},
            "best": {"step": 100, "valid": {"accuracy": accuracy}},
            "test": {"accuracy": accuracy - 0.1},
        }

    seeds = [run(seed, rate, 0.5 + 10 * rate) for rate in (0.01, 0.02) for seed in (0, 1)]
    text = summary.closing(
        result(sweep={"learning_rate": 0.02}, seeds=seeds), config_flag="c.py", workdir="w"
    )
    assert text.splitlines()[:7] == [
        "learning_rate     validation accuracy           test accuracy",
        "         0.01  60.00 (60.00, 60.00) %  50.00 (50.00, 50.00) %",
        "         0.02  70.00 (70.00, 70.00) %  60.00 (60.00, 60.00) %",
        "",
        "best value  learning_rate 0.02",
        "best step   100",
        "validation  accuracy 70.00 (70.00, 70.00) % (2 seeds)",
    ]


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
        "valid             loss 0.5000 (0.5000, 0.5000), accuracy 85.00 (80.00, 90.00) % (2 seeds)",
        "written to        v.json",
    ]


def evaluated(classes, seeds=2):
    counts = [[10 * (i == j) + j for j in range(classes)] for i in range(classes)]
    run = {"best": {"step": 5, "valid": {}}, "test": {"loss": 1.0}}
    runs = [run | {"seed": seed, "tables": {"confusion": counts}} for seed in range(seeds)]
    return {"split": "test", "overrides": {}, "seeds": runs, "classes": ["cat", "dog", "eel"]}


def test_few_classes_have_a_table_of_confusions():
    rows = summary.evaluation(evaluated(3), "x.json").splitlines()
    assert rows[0].startswith("how often each class (row) is taken for which, 2 seeds together")
    assert [row.split() for row in rows[1:6]] == [
        ["cat", "dog", "eel"],
        ["cat", "20", "2", "4"],
        ["dog", "0", "22", "4"],
        ["eel", "0", "2", "24"],
        [],
    ]
    assert "how often" not in summary.evaluation(evaluated(40), "x.json")
