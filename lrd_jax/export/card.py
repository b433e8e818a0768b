"""A model card: what the model is, what made it, how good it is, and how its files are used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrd_jax.config import defaults
from lrd_jax.config.source import again
from lrd_jax.config.values import flatten
from lrd_jax.data.sequence_fit import FILE
from lrd_jax.inference.forward import NUMBERS
from lrd_jax.inference.model import Model, who
from lrd_jax.metrics import declared
from lrd_jax.reporting import header, provenance

_SHOWN = 20  # names of classes
# Paths of the machine that trained, which are nobody's business elsewhere.
PATHS = ("data.data_dir", "data.text_dir", "data.path", "train.init_from")
PATHS += ("devices.compilation_cache",)


def write(workdir: Path, model: Model, files: Sequence[str], size: int) -> str:
    """The text of the card.

    Args:
      workdir: of the run.
      model: that was exported.
      files: names of what was written beside it.
      size: number of parameters.
    """
    content = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    result = _result(workdir)
    made = result.get("versions") or content.get("versions") or {}
    parts = [
        f"# {workdir.resolve().name}",
        f"{header.model_line(model.config, size)}. Parameters of {who(model)}.",
        "## Data",
        _data(model),
        "## Scores",
        _scores(result),
        "## Training",
        _training(model, workdir, result),
        "## Files and their use",
        _files(model, files),
        "## Versions",
        "\n".join(f"- {name} {version}" for name, version in made.items())
        + f"\n- commit {result.get('commit') or content.get('commit') or 'unknown'}"
        + f"\n- exported by lrd_jax {provenance.versions()['lrd_jax']}",
        "## Licence",
        "*To be filled in by whoever publishes the model: the licence of the weights, and what the"
        " licence of the data says of models that were trained on them.*",
    ]
    return "\n\n".join(parts) + "\n"


def without_paths(text: str) -> str:
    """The text of `config.json` without what names places of the machine that trained."""
    content, plain = json.loads(text), flatten(defaults.get_config())
    content.pop("own_file", None)  # `made_from` names it, without its place
    for key in PATHS:
        group, name = key.split(".")
        if name in content["config"].get(group, {}):
            content["config"][group][name] = plain[key]
    return json.dumps(content, indent=2) + "\n"


def _data(model: Model) -> str:
    """What the model was trained on and what it predicts, as a list."""
    spec, data = model.spec, model.config.data
    what = {
        "classify": "one class for each sequence",
        "regress": "numbers for each sequence",
        "regress_steps": "numbers for each step",
        "forecast": "the values of the next step",
        "tag": "a class for steps of each sequence",
        "language": "the next token",
    }.get(spec.kind, f"{spec.kind}, a kind of the user's own")
    named = ", ".join(model.names[:_SHOWN]) + ", ..." * (len(model.names) > _SHOWN)
    lines = [
        f"- data set: `{data.name}`; predicted: {what}",
        f"- outputs ({len(model.names)}): {named}",
        f"- trained on up to {spec.length:,} steps of {spec.features:,} features",
    ]
    if model.fit is not None:
        lines.append(f"- channels, in this order: {', '.join(model.fit.channels)}")
    return "\n".join(lines)


def _result(workdir: Path) -> dict[str, Any]:
    path = workdir / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _scores(result: dict[str, Any]) -> str:
    """A table of the test scores: mean, interval, and each seed's."""
    if not result:
        return "The run has not finished: it was not tested."
    metrics = declared(result, result["test"])
    spread = result.get("statistics", {}).get("test", {})
    lines = ["| metric (test) | mean | 95 % interval | of the seeds |", "|---|---|---|---|"]
    for name, value in result["test"].items():
        metric = metrics[name]
        over = spread.get(name, {})
        interval = over.get("interval")
        lines.append(
            f"| {metric.label} | {_text(metric, value)} |"
            f" {' to '.join(map(metric.number, interval)) if interval else '-'} |"
            f" {', '.join(_text(metric, seed['test'].get(name)) for seed in result['seeds'])} |"
        )
    method = result.get("statistics", {}).get("interval_method", "")
    return "\n".join(lines) + (f"\n\nInterval: {method}." if method else "")


def _text(metric: Any, value: Any) -> str:
    return "-" if value is None else metric.text(value)


def _training(model: Model, workdir: Path, result: dict[str, Any]) -> str:
    """Length, seeds, settings that are not defaults, and the command, as Markdown."""
    plain, lines = flatten(defaults.get_config()), []
    if "steps" in result:
        lines.append(f"- steps: {result['steps']:,}; device: {result.get('device', 'unknown')}")
    lines.append(f"- seeds of the run: {', '.join(str(m.seed) for m in model.everyone)}")
    values = {k: v for k, v in flatten(model.config).items() if k not in PATHS}
    changed = {k: v for k, v in values.items() if plain.get(k, v) != v}
    lines.append(
        "- settings that differ from the defaults: "
        + (", ".join(f"`{key}={value}`" for key, value in changed.items()) or "none")
    )
    return "\n".join(lines) + f"\n\nTrained by\n\n```bash\n{again(workdir, PATHS)}\n```"


def _files(model: Model, files: Sequence[str]) -> str:
    """How each file that was written is used, as a list in Markdown with code."""
    width = "" if model.spec.kind == "language" else ", n"
    found = [
        "- `config.json`: the settings",
        *["- `spec.json`: what the data look like"] * ("spec.json" in files),
        "- `model.safetensors`: the parameters, by the names of the Flax module;"
        " `members.json`: which seeds they are of. With this package the folder is used like a run:"
        ' `lrd_jax.load("DIR")`, or `--workdir=DIR` of every command but training',
    ]
    if "model.stablehlo" in files:
        found.append(
            "- `model.stablehlo`: the whole network for CPU and CUDA, its parameters inside. It"
            " needs `jax` and `flatbuffers` alone:\n\n"
            "```python\n"
            "import pathlib\n"
            "from jax import export\n"
            'model = export.deserialize(pathlib.Path("model.stablehlo").read_bytes())\n'
            f"outputs = model.call(inputs, lengths)  # (batch, time{width}), (batch,) int32\n"
            "```\n\n"
            f"  Inputs are {_dtype(model)}, {_stored(model)}; outputs are {_outputs(model)}."
        )
    if "step.stablehlo" in files:
        found.append(
            "- `step.stablehlo`: one step at a time, with the state in your hands:\n\n"
            "```python\n"
            "import jax.numpy as jnp\n"
            'step = export.deserialize(pathlib.Path("step.stablehlo").read_bytes())\n'
            "like = step.in_avals[:-2]\n"
            "state = tuple(jnp.zeros((batch, *a.shape[1:]), a.dtype) for a in like)\n"
            "begins = jnp.ones(batch, bool)  # at the first step; zeros from then on\n"
            "state, outputs = step.call(state, x, begins)\n"
            "```"
        )
    if "pytorch.safetensors" in files:
        found.append(
            "- `pytorch.safetensors`: a `state_dict` for PyTorch, of\n\n```python\n"
            f"{_torch_module(model)}```"
        )
    return "\n".join(found)


def _dtype(model: Model) -> str:
    ids = model.spec.one_hot or model.spec.kind == "language"
    return "int32 ids" if ids or model.config.model.embedding == "table" else "float32"


def _stored(model: Model) -> str:
    if model.fit is None:
        return "as the data set stores them"
    if model.fit.missing == "refuse":
        return "as in the files, not yet scaled"
    return f"as in the files, not yet scaled, with missing values filled as in {FILE}"


def _outputs(model: Model) -> str:
    if model.spec.kind in NUMBERS:
        return "numbers"
    what = "of the next token" if model.spec.kind == "language" else "of the classes"
    return f"probabilities {what}, in the order above"


def _torch_module(model: Model) -> str:
    """The text of a PyTorch module that loads `pytorch.safetensors`."""
    recurrence = model.module.recurrence
    cell = recurrence.cell
    kind = "LSTM" if "LSTM" in type(cell).__name__ else "GRU"
    options = [str(_entering(model)), str(cell.hidden_size), "batch_first=True"]
    if recurrence.num_layers > 1:
        options.insert(2, f"num_layers={recurrence.num_layers}")
    if recurrence.bidirectional:
        options.append("bidirectional=True")
    lines = [
        "class Net(torch.nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        f"        self.recurrence = torch.nn.{kind}({', '.join(options)})",
    ]
    if type(cell).__name__ == "URLSTMCell":
        lines[-1] = "        self.recurrence = ...  # https://github.com/r0mainK/ur-lstm"
    params = model.params
    if model.spec.kind == "language":
        rows, width = np.shape(params["embedding"])
        lines.append(f"        self.embedding = torch.nn.Embedding({rows}, {width})")
        rows, width = np.shape(params["output_kernel"])
        lines.append(f"        self.output = torch.nn.Linear({width}, {rows})")
        return "\n".join(lines) + "\n"
    if "embedding" in params:
        n, width = np.shape(params["embedding"]["kernel"])
        lines.append(f"        self.embedding = torch.nn.Linear({n}, {width})")
    head = [params["head"][f"Dense_{i}"]["kernel"] for i in range(len(params["head"]))]
    layers = [f"torch.nn.Linear({k.shape[0]}, {k.shape[1]})" for k in head]
    joined = ", torch.nn.ReLU(), ".join(layers)
    lines.append(f"        self.head = torch.nn.Sequential({joined})")
    pool = model.config.model.pool
    scale = "(x - offset) * scale, from spec.json" if model.spec.scale != (1.0,) else "x"
    lines.append(f"# reads {scale}; the head reads the outputs by model.pool={pool}")
    return "\n".join(lines) + "\n"


def _entering(model: Model) -> int:
    return int(np.shape(model.params["recurrence"]["layer_0"]["input"]["kernel"])[0])
