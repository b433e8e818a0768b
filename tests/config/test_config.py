import json
import math
import os
import subprocess
import sys
from pathlib import Path

import ml_collections
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from lrd_jax.config import checks, command_line, defaults, record
from lrd_jax.config.values import flatten
from lrd_jax.errors import UserError

ROOT = Path(__file__).parents[2]
BASE = str(ROOT / "configs" / "base.py")


def parse(*arguments):
    """Parses in-process; returns the config flag and the other flags."""
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "", flag_values=values)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    return command_line.parse_flags(["main.py", *arguments], values), values


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    message = str(caught.value)
    assert message and "\n" not in message and "Traceback" not in message
    return message


def write_config(folder, text):
    path = folder / "experiment.py"
    path.write_text(text)
    return str(path)


# ---- Command line ----


def test_overrides_reach_the_config_with_their_types():
    flag, values = parse(
        f"--config={BASE}",
        "--config.seed=7",
        "--config.optim.learning_rate=3e-3",
        "--config.data.name=digits",
        "--config.model.head_hidden=(64,32)",
        "--noconfig.devices.deterministic",
        "--config.train.num_epochs",
        "2",
        "--mode=eval",
    )
    config = flag.config
    assert config.is_locked and values.mode == "eval"
    assert (config.seed, config.optim.learning_rate, config.train.num_epochs) == (7, 3e-3, 2.0)
    assert config.model.head_hidden == (64, 32) and config.devices.deterministic is False
    assert flag.spec == BASE
    assert flag.overrides == {
        "seed": 7,
        "optim.learning_rate": 3e-3,
        "data.name": "digits",
        "model.head_hidden": (64, 32),
        "devices.deterministic": False,
        "train.num_epochs": 2.0,
    }


def test_untouched_config_is_the_file(tmp_path):
    flagfile = tmp_path / "flags"
    flagfile.write_text(f"--config={BASE}\n--config.seed=3\n")
    config = parse(f"--flagfile={flagfile}")[0].config
    assert record.differences(defaults.get_config(), config) == ["seed: 0 -> 3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no config: give --config=FILE"),
        (["--config="], "no config"),
        (["--config.seed=1"], "no config"),
        (["--config.seed=1", f"--config={BASE}"], "no config"),
        ([f"--config={BASE}", f"--config={BASE}"], "--config is given twice"),
        (["--config=configs/nowhere.py"], "there is no config file 'configs/nowhere.py'"),
        ([f"--config={ROOT}"], "there is no config file"),
        ([f"--config={ROOT / 'pyproject.toml'}"], "pyproject.toml' is not a Python file"),
        ([f"--config={BASE}:H6"], "takes 0 positional arguments"),
        (["--wrokdir=x"], "'wrokdir'. Did you mean: workdir"),
        ([f"--config={BASE}", "stray"], "unexpected argument 'stray'"),
        ([f"--config={BASE}", "--mode=test"], "--mode=test: value should be one of <train|eval>"),
        ([f"--config={BASE}", "--wrokdir=x"], "'wrokdir'. Did you mean: workdir"),
        (["--flagfile=/nowhere/flags"], "No such file"),
    ],
)
def test_wrong_command_lines_are_refused_in_one_line(arguments, message):
    assert message in refusal(*arguments)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_steps=5", "unknown config key 'num_steps': did you mean train.num_steps?"),
        ("trian.num_steps=5", "did you mean train.num_steps?"),
        ("train.num_stepz=5", "did you mean train.num_steps?"),
        ("learning_rat=1", "did you mean optim.learning_rate?"),
        ("batch_size=1", "batch_size?"),
        ("zzz=1", "unknown config key 'zzz'; lrd_jax/config/defaults.py lists all keys"),
        ("=1", "unknown config key ''"),
        ("train.num_steps.more=1", "unknown config key"),
        ("train=1", "config.train is a group: set one of its keys"),
        ("seed=abc", "--config.seed=abc: expected an integer"),
        ("seed=1.5", "--config.seed=1.5: expected an integer"),
        ("seed=None", "expected an integer"),
        ("seed", "Missing value for flag --config.seed"),
        ("optim.learning_rate=fast", "--config.optim.learning_rate=fast: expected a number"),
        ("devices.deterministic=maybe", "expected true or false"),
        ("model.head_hidden=(256", "is not a tuple of int"),
        ("model.head_hidden=(256,,)", "expected a tuple such as (256,)"),
        ("model.head_hidden=(1.5,)", "is not a tuple of int"),
        ("model.head_hidden=(True,)", "is not a tuple of int"),
        ("model.head_hidden=wide", "is not a tuple of int"),
    ],
)
def test_wrong_overrides_are_refused_in_one_line(override, message):
    assert message in refusal(f"--config={BASE}", f"--config.{override}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "SyntaxError"),
        ("import no_such_module_anywhere\n", "No module named 'no_such_module_anywhere'"),
        ("x = 1\n", "has no function get_config"),
        ("def get_config():\n  raise RuntimeError('two\\nlines')\n", "RuntimeError: two lines"),
        ("def get_config():\n  open('/nowhere/x')\n", "FileNotFoundError"),
        ("def get_config():\n  return {'seed': 0}\n", "returned dict, not an ml_collections"),
        (
            "from lrd_jax.errors import UserError\n"
            "def get_config():\n  raise UserError('rows are H1, H2')\n",
            "rows are H1, H2",
        ),
    ],
)
def test_faulty_config_files_are_refused_in_one_line(tmp_path, text, message):
    assert message in refusal(f"--config={write_config(tmp_path, text)}")


# What a file does to the defaults `c` -> what is said of it.
EDITS = [
    ("c.optim.learning_rte = 3e-2", "unknown config key 'optim.learning_rte': did you mean opt"),
    ("c.detach.pblock = 0.5", "'detach.pblock': did you mean detach.p_block?"),
    ("c.trian = 5", "unknown config key 'trian': did you mean train?"),
    ("c.trian.num_steps = 5", "unknown config key 'trian': did you mean train?"),
    ("c.learning_rate = 3e-2", "did you mean optim.learning_rate?"),
    ("c['optim']['learning_rte'] = 3e-2", "did you mean optim.learning_rate?"),
    ("c.update({'optim': {'learning_rte': 3e-2}})", "did you mean optim.learning_rate?"),
    ("c.update_from_flattened_dict({'optim.lr': 1.0})", "unknown config key 'optim.lr'"),
    ("c.update_from_flattened_dict({'optin.learning_rate': 1.0})", "did you mean optim.learning"),
    ("c.data = 3", "config.data is a group: set one of its keys"),
    ("c.optim.clip_norm = None", "config.optim.clip_norm=None: expected a number, a string"),
    ("c.optim.clip_norm = 'off'", "config.optim.clip_norm='off': expected a number"),
    ("c.seed = '1'", "config.seed='1': expected an integer"),
    ("c.seed = True", "config.seed=True: expected an integer"),
    ("c.seed = 1.5", "config.seed=1.5: expected an integer"),
    ("c.devices.deterministic = 1", "config.devices.deterministic=1: expected true or false"),
    ("c.data.target_columns = 'a'", "config.data.target_columns='a': write it as ('a',)"),
    ("c.model.cell = 3", "config.model.cell=3: expected a string"),
    ("c.model.head_hidden = 256", "config.model.head_hidden=256: expected a tuple such as (256,)"),
    ("c.model.head_hidden = (256, 'wide')", "is not a tuple of int; write it like (256,)"),
    ("c.model.head_hidden = (1.5,)", "is not a tuple of int"),
    ("c.model.head_hidden = (None,)", "expected a number, a string, true or false, or a tuple"),
    ("c.sweep.p_block = ('a',)", "config.sweep.p_block=('a',): must be a tuple of numbers"),
    ("c.model.cell = {'name': 'lstm'}", "config.model.cell="),
    ("c.model.cell = print", "config.model.cell="),
    ("c.unlock(); c.mine = {1, 2}", "config.mine={1, 2}: expected a number, a string, true or"),
    ("c.unlock(); del c.optim.clip_norm", "the config has no key 'optim.clip_norm': start from"),
    ("import sys; sys.exit(3)", "ended the program: 3"),
    ("raise SystemExit('set FOO first')", "ended the program: set FOO first"),
]


@pytest.mark.parametrize(("edit", "message"), EDITS)
def test_a_file_is_refused_as_the_command_line_is(tmp_path, edit, message):
    path = write_config(
        tmp_path,
        "from lrd_jax.config import defaults\n"
        f"def get_config():\n  c = defaults.get_config()\n  {edit}\n  return c\n",
    )
    assert message in refusal(f"--config={path}")


@pytest.mark.parametrize(
    ("edit", "key", "value"),
    [
        ("c.optim.clip_norm = 2", "optim.clip_norm", 2.0),
        ("c.model.head_hidden = [64, 32]", "model.head_hidden", (64, 32)),
        ("c.eval.delays = [200, 400]", "eval.delays", (200, 400)),
        ("import numpy; c.optim.clip_norm = numpy.float64(2)", "optim.clip_norm", 2.0),
        ("c.data.delay = c.get_ref('seed')", "data.delay", 0),
        ("with c.ignore_type(): c.data.channels = 'x'", "data.channels", ("x",)),
        ("c.unlock(); c.model.beta = [1, 2]", "model.beta", (1, 2)),
    ],
)
def test_a_file_may_write_a_value_another_way(tmp_path, edit, key, value):
    path = write_config(
        tmp_path,
        "from lrd_jax.config import defaults\n"
        f"def get_config():\n  c = defaults.get_config()\n  {edit}\n  return c\n",
    )
    config = command_line.load_config(path)
    found = record.flatten(config)[key]
    assert found == value and repr(found) == repr(value) and config.is_locked
    again = record.from_json(record.to_json(config))
    assert record.differences(again, config) == []


def test_defaults_are_locked_in_python_too():
    config = defaults.get_config()
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        config.optim.learning_rte = 3e-2
    with pytest.raises(AttributeError, match='Did you mean "p_block"'):
        config.detach.pblock = 0.5
    with pytest.raises(AttributeError, match='Did you mean "train"'):
        config.trian = 5
    with pytest.raises(TypeError):
        config.model.hidden_size = "wide"
    with pytest.raises(UserError, match=r"config.optim.clip_norm=None: expected a number"):
        checks.validate(changed(optim__clip_norm=None))


def test_a_config_file_elsewhere_needs_the_package_alone(tmp_path):
    path = write_config(tmp_path, "from lrd_jax.config.defaults import get_config\n")
    code = (
        "import sys\nfrom lrd_jax.config.command_line import load_config\nbefore = list(sys.path)\n"
        f"assert load_config({path!r}).model.cell == 'lstm'\n"
        f"assert load_config({str(ROOT / 'configs' / 'auxiliary_short.py') + ':lstm'!r})\n"
        f"assert load_config({str(ROOT / 'configs' / 'auxiliary_embeddings.py') + ':r-shared'!r})\n"
        "assert sys.path == before\n"
    )
    folder = tmp_path / "package"  # the package without the checkout around it
    folder.mkdir()
    (folder / "lrd_jax").symlink_to(ROOT / "lrd_jax")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_config_argument_reaches_get_config(tmp_path):
    path = write_config(
        tmp_path,
        "from lrd_jax.config import defaults\n"
        "def get_config(row='none'):\n"
        "  c = defaults.get_config()\n  c.data.name = row\n  return c\n",
    )
    assert parse(f"--config={path}:H6,quick")[0].config.data.name == "H6,quick"
    assert command_line.load_config(path).data.name == "none"


@given(st.sampled_from(["seed", "optim.learning_rate", "model.head_hidden", "data"]), st.text())
def test_no_value_gets_past_the_one_line_refusal(key, text):
    try:
        config = parse(f"--config={BASE}", f"--config.{key}={text}")[0].config
    except UserError as error:
        assert str(error)
    else:
        assert type(config.seed) is int and type(config.optim.learning_rate) is float
        assert all(type(width) is int for width in config.model.head_hidden)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"--config={BASE}", "--config.num_stpes=3"], "did you mean train.num_steps?"),
        ([f"--config={BASE}", "--config.optim.learning_rate=nan"], "must be a finite number"),
    ],
)
def test_program_prints_one_line_and_exits_with_2(tmp_path, arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", "lrd_jax.main", f"--workdir={tmp_path / 'run'}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("lrd_jax: error: ") and message in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("configs/urlstm_pmnist.py", "urlstm_pmnist"),
        ("/a/b/hdetach_copying.py:H6", "hdetach_copying-H6"),
        ("hdetach_copying.py:H6,quick", "hdetach_copying-H6-quick"),
        ("x.py:../../etc", "x-..-..-etc"),
        ("gating_synthetic.py:G2---", "gating_synthetic-G2---"),
        ("gating_synthetic.py:G2---,quick", "gating_synthetic-G2----quick"),
        ("gating_images.py:G12-cifar--R", "gating_images-G12-cifar--R"),
        ("x.py:", "x"),
    ],
)
def test_config_name(spec, name):
    assert command_line.config_name(spec) == name


# ---- Values ----


def changed(**values):
    config = defaults.get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    return config


def test_defaults_and_limits_are_legal():
    checks.validate(defaults.get_config())
    checks.validate(changed(seed=2**31 - 3, num_seeds=3))
    checks.validate(changed(train__num_steps=1, train__num_epochs=0.0))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", 2**31),
        ("num_seeds", 0),
        ("data.batch_size", 0),
        ("data.batch_size", 10**20),
        ("data.name", " "),
        ("data.data_dir", ""),
        ("optim.learning_rate", 0.0),
        ("optim.learning_rate", -1e-3),
        ("optim.learning_rate", math.nan),
        ("optim.learning_rate", math.inf),
        ("optim.clip_norm", math.nan),
        ("model.head_hidden", (10**20,)),
        ("train.num_epochs", 0.0),
        ("train.num_epochs", -math.inf),
        ("train.num_steps", -1),
        ("train.eval_every_steps", -1),
        ("train.checkpoint_every_steps", -5),
        ("train.log_every_steps", 0),
        ("eval.split", "validation"),
        ("eval.batch_size", -1),
        ("devices.cpu_devices", -1),
        ("optim.learning_rate", 1e-300),  # 0 in float32, as all of it is computed
        ("optim.clip_value", 1e300),
        ("sweep.p_block", (0.5, 1e-40)),
        ("eval.temperature", 1e-7),
    ],
)
def test_illegal_values_are_refused_by_name(key, value):
    with pytest.raises(UserError) as caught:
        checks.validate(changed(**{key: value}))
    message = str(caught.value)
    assert message.startswith(f"config.{key}={value!r}: must be ") and "\n" not in message


def test_seeds_must_stay_in_range_together():
    with pytest.raises(UserError, match=r"config.seed=2147483647: must be from 0 to 2147483645"):
        checks.validate(changed(seed=2**31 - 1, num_seeds=3))


def test_a_config_without_a_needed_key_is_refused():
    with pytest.raises(UserError, match=r"no key .num_seeds.: start from lrd_jax.config.defaults"):
        checks.validate(ml_collections.ConfigDict({"seed": 0}))


# ---- Work directory ----

finite = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**31), 2**31)
values = st.one_of(integers, finite, st.booleans(), st.text(), st.lists(integers).map(tuple))


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), values))
def test_json_round_trip_keeps_values_and_types(content):
    config = ml_collections.ConfigDict({"group": content, "top": 1})
    restored = record.from_json(record.to_json(config, versions={"jax": "0"}, commit="c"))
    assert restored.to_dict() == config.to_dict() and restored.is_locked
    for key, value in content.items():
        assert type(restored.group[key]) is type(value)
    assert record.differences(config, restored) == []


def test_to_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        record.to_json(changed(optim__clip_norm=math.nan))


def old_record(**values):
    """A config.json of the first format, without some of today's keys."""
    config = defaults.get_config().unlock()
    del config.model.embedding, config.eval.sample_seed
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    return json.dumps({"config": config.to_dict(), "versions": {}, "commit": ""})


def test_an_older_record_is_filled_from_the_defaults(tmp_path):
    (tmp_path / "config.json").write_text(old_record(seed=3), encoding="utf-8")
    config = record.load_workdir(tmp_path)
    assert record.differences(changed(seed=3), config) == [] and config.is_locked
    record.check_same(config, changed(seed=3, eval__sample_seed=4))
    again = record.eval_overrides(config, {"eval.sample_seed": 4})
    assert again.eval.sample_seed == 4


@pytest.mark.parametrize(
    ("before", "network", "decoder"),
    [("none", "linear", "none"), ("full", "table", "none"), ("decoder", "linear", "decoder")],
)
def test_moved_keys_of_an_older_record(tmp_path, before, network, decoder):
    text = old_record(aux__embedding=before)
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    config = record.load_workdir(tmp_path)
    assert (config.model.embedding, config.aux.embedding) == (network, decoder)


def test_a_record_of_now_is_not_moved_again(tmp_path):
    content = json.loads(record.to_json(changed(aux__embedding="decoder")))
    assert content["format"] == record.FORMAT
    content["config"]["aux"]["embedding"] = "full"
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert record.load_workdir(tmp_path).aux.embedding == "full"


def test_a_record_that_lost_a_key_is_damaged(tmp_path):
    content = json.loads(record.to_json(defaults.get_config()))
    del content["config"]["model"]["cell"]
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json .*damaged \(it holds \d+ of \d+ values"):
        record.load_workdir(tmp_path)


def test_a_newer_record_is_refused(tmp_path):
    content = json.loads(record.to_json(defaults.get_config())) | {"format": record.FORMAT + 1}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=r"has format 5, and this version of lrd_jax reads 4"):
        record.load_workdir(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("seed", None), ("seed", "x"), ("model", 3), ("model.cell", 3)]
)
def test_a_record_with_a_value_of_another_type_is_damaged(tmp_path, key, value):
    content = json.loads(record.to_json(defaults.get_config()))
    group, _, name = key.rpartition(".")
    (content["config"][group] if group else content["config"])[name] = value
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json .*damaged"):
        record.load_workdir(tmp_path)


def test_a_list_of_a_key_of_ones_own_equals_its_record():
    config = defaults.get_config()
    with config.unlocked():
        config.model.sizes = [1, 2]
    restored = record.from_json(record.to_json(config))
    assert record.differences(config, restored) == []
    record.check_same(restored, config)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": 3}', '{"config": null}'])
def test_damaged_config_json_is_refused(text):
    with pytest.raises(UserError, match=r"config\.json .*damaged"):
        record.from_json(text)


def test_load_workdir(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        record.load_workdir(tmp_path)
    (tmp_path / "config.json").write_text(record.to_json(defaults.get_config()))
    assert record.differences(defaults.get_config(), record.load_workdir(tmp_path)) == []


def test_differences_name_both_values_and_missing_keys():
    old = changed(model__head_hidden=(1, 2)).unlock()
    new = changed(seed=3, data__name="mnist")
    del old.optim.clip_norm
    assert record.differences(old, new) == [
        "data.name: 'digits' -> 'mnist'",
        "model.head_hidden: (1, 2) -> (256,)",
        "optim.clip_norm: (absent) -> 1.0",
        "seed: 0 -> 3",
    ]


def test_check_same_lets_only_the_harmless_keys_change():
    harmless = changed(
        devices__cpu_devices=2,
        devices__deterministic=False,
        data__data_dir="/elsewhere",
        model__backend="scan",
        train__log_every_steps=7,
        train__checkpoint_every_steps=9,
        eval__split="valid",
    )
    record.check_same(defaults.get_config(), harmless)
    other = changed(optim__learning_rate=0.5, train__num_epochs=3.0, eval__split="valid")
    with pytest.raises(UserError) as caught:
        record.check_same(defaults.get_config(), other)
    message = str(caught.value)
    assert "optim.learning_rate: 0.001 -> 0.5; train.num_epochs: 30.0 -> 3.0" in message
    assert "--workdir" in message and "eval" not in message and "\n" not in message


def test_eval_overrides_change_the_task_alone():
    work = changed(seed=5).lock()
    config = record.eval_overrides(work, {"eval.split": "valid", "data.batch_size": 8})
    assert record.differences(work, config) == [
        "data.batch_size: 64 -> 8",
        "eval.split: 'test' -> 'valid'",
    ]
    assert config.is_locked and work.eval.split == "test"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.hidden_size", 5, "config.model.hidden_size cannot be changed"),
        ("seed", 1, "config.seed cannot be changed"),
        ("eval.splt", "test", "did you mean eval.split?"),
        ("data.batch_size", "many", "data.batch_size='many'"),
    ],
)
def test_eval_overrides_refuse_the_rest(key, value, message):
    with pytest.raises(UserError) as caught:
        record.eval_overrides(defaults.get_config(), {key: value})
    assert message in str(caught.value)


def test_what_says_the_stored_value_is_no_change():
    work = changed(num_seeds=3, optim__learning_rate=1.0, model__head_hidden=(7,)).lock()
    same = {"num_seeds": 3, "optim.learning_rate": 1, "model.head_hidden": [7], "model.cell": "rnn"}
    assert record.changes(work, same | {"eval.split": "test"}) == {
        key: value for key, value in (("model.cell", "rnn"), ("eval.split", "test"))
    }
    del same["model.cell"]
    assert record.differences(work, record.eval_overrides(work, same)) == []
    assert record.changes(work, {"eval.split": "test"}, asked=()) == {}
    for key, value in (("num_seeds", True), ("num_seeds", 3.5), ("seed", "0"), ("model.x", 1)):
        with pytest.raises(UserError, match=rf"config\.{key} cannot be changed"):
            record.eval_overrides(work, {key: value})


def test_quick_is_a_rule_for_every_key():
    c = defaults.get_config()
    with c.unlocked():
        c.model.memory_size = 4096  # of somebody's own cell
        c.model.inner_hidden = (512, 8)
        c.model.use_size = True
        c.data.warm_length = 700  # of somebody's own task
        c.data.order_length = "long"
    c.model.num_layers, c.data.batch_size, c.optim.warmup_steps = 8, 512, 4000
    defaults.shrink(c)
    assert (c.model.memory_size, c.model.inner_hidden, c.model.use_size) == (16, (32, 8), True)
    assert (c.data.warm_length, c.data.order_length, c.data.delay) == (50, "long", 0)
    assert (c.model.num_layers, c.data.batch_size, c.optim.warmup_steps) == (2, 50, 10)
    assert c.data.steps_per_epoch == 1000 and c.truncate.steps == 0
    assert (c.train.num_steps, c.eval.max_examples) == (30, 250)
    c.eval.max_examples = 3
    defaults.shrink(c)
    assert c.eval.max_examples == 3


def test_a_run_does_not_go_on_with_another_bound_of_its_validation():
    old, new = defaults.get_config(), defaults.get_config()
    new.eval.max_examples, new.eval.batch_size, new.train.tensorboard = 10, 7, False
    with pytest.raises(UserError, match=r"eval.max_examples: 0 -> 10\)"):
        record.check_same(old, new)
    assert record.eval_overrides(old, {"eval.max_examples": 10}).eval.max_examples == 10


def test_no_key_is_named_like_a_method():
    # The command line would find the method in its place.
    for key in flatten(defaults.get_config()):
        assert not any(hasattr(ml_collections.ConfigDict, part) for part in key.split(".")), key


def test_a_renamed_key_is_read_where_it_was():
    config = defaults.get_config()
    content = json.loads(record.to_json(config)) | {"format": 3}
    content["config"]["data"]["items"] = content["config"]["data"].pop("num_items") + 3
    assert record.from_json(json.dumps(content)).data.num_items == config.data.num_items + 3
