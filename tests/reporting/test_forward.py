"""Records that a service gets beside `metrics.jsonl`: three calls, and never a lost run."""

import json
import logging
import sys

import pytest

from lrd_jax.config import checks
from lrd_jax.errors import UserError
from lrd_jax.reporting import forward
from lrd_jax.reporting.writers import Writers, read_metrics
from tests.training.harness import make_config

# A package of the same face, which keeps what it is told; `broken` names a call that fails.
FAKE = """
calls, broken = [], None

def told(name):
    def call(*args, **options):
        calls.append((name, args, options))
        if name == broken:
            raise OSError("no route to host")
    return call

init, log, finish = map(told, ("init", "log", "finish"))
"""


@pytest.fixture(params=["wandb", "trackio"])
def service(request, tmp_path, monkeypatch):
    """The fake of one service, installed."""
    (tmp_path / f"{request.param}.py").write_text(FAKE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    forward.check(request.param)
    yield __import__(request.param)
    monkeypatch.delitem(sys.modules, request.param)


def write(workdir, service, steps):
    config = make_config(train__forward=service.__name__, train__tensorboard=False)
    writers = Writers(workdir, config, resume_step=steps[0])
    for step in steps:
        for seed in (0, 1):
            values = {"loss": 0.5 + seed, "accuracy": float("nan"), "time": "noon", "eval_s": 2.0}
            writers.write(step, step / 10, "train", values, {"seed": seed})
        writers.write_mean(step, "train", {"loss": 1.0})
    writers.write(steps[-1], 1.0, "valid", {"loss": 0.25})
    writers.flush()
    writers.close()
    writers.close()
    return read_metrics(workdir / "metrics.jsonl")


def test_what_a_service_is_told(service, tmp_path):
    write(tmp_path, service, [5, 10])
    write(tmp_path, service, [10])
    names = [name for name, *_ in service.calls]
    assert names == ["init", "log", "log", "finish", "init", "log", "finish"]
    (_, _, first), (_, _, second) = (call for call in service.calls if call[0] == "init")
    assert first == second and first["resume"] == "allow" and first["project"] == "lrd_jax"
    assert first["name"] == json.loads((tmp_path / "forward.json").read_text("utf-8"))["run"]
    assert first["config"]["model.cell"] == "urlstm"
    assert ("id" in first) == (service.__name__ == "wandb")
    (_, (values,), options), (_, (last,), _) = service.calls[1:3]
    each = {"train/loss/seed 0": 0.5, "train/loss/seed 1": 1.5, "train/loss": 1.0}
    assert options == {"step": 5} and values == each | {"perf/eval_s": 2.0}
    assert last["valid/loss"] == 0.25


@pytest.mark.parametrize("broken", ["init", "log", "finish", "import"])
def test_what_fails_there_costs_one_warning(service, tmp_path, caplog, broken):
    service.broken = broken
    if broken == "import":
        (tmp_path / f"{service.__name__}.py").write_text("raise OSError('no route to host')")
        del sys.modules[service.__name__]
    with caplog.at_level(logging.WARNING):
        records = write(tmp_path, service, [5, 10])
    assert len(records) == 5
    (record,) = caplog.records
    assert record.getMessage() == (
        f"train.forward={service.__name__}: OSError: no route to host; no more is forwarded, and"
        " metrics.jsonl has every record"
    )
    sys.modules.setdefault(service.__name__, service)


def test_what_is_not_installed_names_its_extra(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()  # what the service leaves behind is no package
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(UserError, match=r"train\.forward=wandb .* pip install 'lrd-jax\[wandb\]'"):
        forward.check("wandb")
    forward.check("none")
    with pytest.raises(UserError, match=r"train\.forward='mlflow': must be one of none, wandb"):
        checks.validate(make_config(train__forward="mlflow"))
