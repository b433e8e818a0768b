"""Bad input: one line that says what to do, exit status 2, and nothing touched.

One row of a table is one wrong invocation; a new one is one more row. `{data}`, `{here}` and so on
in its arguments stand for folders, which `Scene` describes.
"""

import contextlib
import fcntl
import functools
import json
import os
import re
import shlex
import shutil

import pytest
from absl import flags

from lrd_jax.config import command_line
from lrd_jax.data.builders.mnist import TEST_LABELS, LrdMnist
from lrd_jax.errors import UserError
from lrd_jax.training import loop
from tests.integration.conftest import ROOT, cut_files

D = "--config=configs/urlstm_pdigits.py:quick"
DIGITS = f"{D} --config.data.data_dir={{data}}"
NEW = f"{DIGITS} --workdir={{here}}/new"
RUN = f"{DIGITS} --config.data.pixels_per_step=8 --config.model.hidden_size=8 --workdir={{run}}"
EVAL = f"{D} --mode=eval --workdir={{run}}"
OWN = "--config=configs/your_sequences.py:quick --workdir={here}/new --config.data.path"
TEXT = "--config=configs/char_shakespeare.py:quick --workdir={here}/new --config.data.text_dir"
COPY = "--config=configs/hdetach_copying.py:H1,quick --config.data.data_dir={data}"
COPY += " --workdir={here}/new"


SHAPES = "--config=configs/caption_shapes.py:SAT,quick --workdir={here}/new"
FLICKR = "--config=configs/caption_flickr8k.py:ST,quick --workdir={here}/new"
FLICKR += " --config.data.data_dir={here}"


class Scene:
    """The folders that a row names.

    Attributes:
      data: a data_dir with the digits, shared and whole.
      here: a folder of the test's own; its files must be the same before and after.
      run: a work directory in it, with a finished run of the program's tiny config.
      stack: ends what has to end after the test.
    """

    def __init__(self, data, here, finished, stack):
        self.data, self.here, self.stack = data, here, stack
        self._finished = finished

    @functools.cached_property
    def run(self):
        return shutil.copytree(self._finished, self.here / "run")

    def fill(self, arguments):
        values = {name: getattr(self, name) for name in re.findall(r"\{(\w+)\}", arguments)}
        return [word.format(**values) for word in shlex.split(arguments)]


# ---- What a row may do to the scene beforehand ---------------------------------------------------


def config_file(text):
    return lambda scene: (scene.here / "mine.py").write_text(text)


def edited(line):
    """A config file that does this to the defaults `c`."""
    return config_file(
        "from lrd_jax.config import defaults\n"
        f"def get_config():\n  c = defaults.get_config()\n  {line}\n  return c\n"
    )


def write(name, text):
    def harm(scene):
        path = scene.run / name
        path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text)

    return harm


def remove(*names):
    def harm(scene):
        for name in names:
            path = scene.run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return harm


def empty(name):
    def harm(scene):
        for path in (scene.run / name).iterdir():
            shutil.rmtree(path)

    return harm


def a_file(scene):
    (scene.here / "file").write_text("not a directory")


def forget(key):
    """Takes a key out of the config.json of the run."""

    def harm(scene):
        content = json.loads((scene.run / "config.json").read_text())
        group, _, name = key.partition(".")
        del content["config"][group][name]
        (scene.run / "config.json").write_text(json.dumps(content))

    return harm


def replace(key, value):
    """Gives a key of the config.json of the run another value; "" is its format."""

    def harm(scene):
        content = json.loads((scene.run / "config.json").read_text())
        group, _, name = f"config.{key}".rpartition(".")
        place = content if not key else content["config"][group.partition(".")[2]]
        place[name or "format"] = value
        (scene.run / "config.json").write_text(json.dumps(content))

    return harm


def books(*names):
    """Puts a folder of texts into `here`."""

    def act(scene):
        (scene.here / "books").mkdir()
        for name in names:
            (scene.here / "books" / name).write_text("abc abd\n" * 60)

    return act


def damage_all_checkpoints(scene):
    (scene.run / "result.json").unlink()
    for folder in (scene.run / "checkpoints").iterdir():
        cut_files(folder / "state")
        cut_files(folder / "best")


def result_with(**changes):
    def harm(scene):
        path = scene.run / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return harm


def a_directory(name):
    """Puts a folder in the place of a file of the run."""

    def harm(scene):
        (scene.run / name).unlink()
        (scene.run / name).mkdir()

    return harm


def extra_of_all(text):
    """Writes over what the checkpoints of the run hold beside the arrays."""

    def harm(scene):
        (scene.run / "result.json").unlink()
        found = [*(scene.run / "checkpoints").glob("*/extra/metadata")]
        assert found
        for path in found:
            path.write_text(text)

    return harm


def lock(scene):
    file = scene.stack.enter_context((scene.run / ".lock").open("w"))
    fcntl.flock(file, fcntl.LOCK_EX)


def digits(harm):
    """Puts a copy of the prepared digits into `here/data`, with a file harmed."""

    def act(scene):
        shutil.copytree(scene.data, scene.here / "data")
        (folder,) = (scene.here / "data" / "lrd_digits").glob("[!.]*")
        harm(folder)

    return act


def garbage(*missing):
    """Puts files of garbage under the names of MNIST's archives into `here/source`."""

    def act(scene):
        (scene.here / "source").mkdir()
        for source in LrdMnist.SOURCES:
            if source.name not in missing:
                (scene.here / "source" / source.name).write_bytes(b"garbage")

    return act


def real_sources(harm):
    """Puts copies of the real archives of MNIST into `here/source` and harms them."""

    def act(scene):
        root = os.environ.get("LRD_JAX_TEST_DATA")
        if not root:
            pytest.skip("LRD_JAX_TEST_DATA is not set: no MNIST files to harm")
        shutil.copytree(f"{root}/mnist", scene.here / "source")
        harm(scene.here / "source")

    return act


def cut(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder):
    path = folder / "t10k-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(folder):
    shutil.copy(folder / "train-labels-idx1-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz")


# ---- Answered before JAX has loaded: each a fresh `python -m lrd_jax.main` -----------------------

QUICK = [
    # Flags.
    ("", "no config: give --config=FILE"),
    ("--config=", "no config: give --config=FILE"),
    ("--config.seed=1", "no config: give --config=FILE"),
    (f"{D} {D}", "--config is given twice"),
    (f"{D} stray", "unexpected argument 'stray'"),
    (f"{D} --mode=test", "--mode=test: value should be one of <train|eval>"),
    (f"{D} --wrokdir=x", "'wrokdir'. Did you mean: workdir"),
    (f"{D} --workdir", "Missing value for flag --workdir"),
    (f"{D} --flagfile={{here}}/flags", "No such file"),
    (f"{D} --workdir=~nobody.here/run", "there is no such user"),
    (f"{D} --workdir=gs://bucket/run", "'gs://bucket/run' is a URL"),
    (f"{D} --config.data.data_dir=s3://bucket --workdir={{here}}/new", "'s3://bucket' is a URL"),
    (f"{D} --workdir={{here}}/{300 * 'a'}", "is too long for a name: 300 bytes"),
    (f"{D} --workdir={{here}}{30 * ('/' + 200 * 'a')}", "is too long for a name: 6[0-9]{3} bytes"),
    (f"--config={300 * 'a'}.py", "there is no config file"),
    (
        f"{D} --flagfile={{here}}/flags",
        "--flagfile names a file that is not text in UTF-8",
        lambda scene: (scene.here / "flags").write_bytes(b"\x7fELF\xa0\0"),
    ),
    # Config files.
    ("--config=configs/nowhere.py", "there is no config file 'configs/nowhere.py'"),
    ("--config=configs", "there is no config file 'configs'"),
    ("--config=pyproject.toml", "is not a Python file"),
    ("--config={here}/mine.py", "SyntaxError", config_file("def get_config(:\n")),
    ("--config={here}/mine.py", "has no function get_config", config_file("x = 1\n")),
    (
        "--config={here}/mine.py",
        "returned dict, not an ml_collections",
        config_file("def get_config():\n  return {'seed': 0}\n"),
    ),
    (
        "--config={here}/mine.py",
        "No module named 'no_such_module'",
        config_file("import no_such_module\n"),
    ),
    (
        "--config={here}/mine.py",
        "mine.py' failed: ZeroDivisionError",
        config_file("def get_config():\n  return 1 / 0\n"),
    ),
    (
        "--config={here}/mine.py",
        "the config has no key 'num_seeds': start from lrd_jax.config.defaults",
        config_file(
            "import ml_collections\ndef get_config():\n"
            "  return ml_collections.ConfigDict({'seed': 0})\n"
        ),
    ),
    (
        "--config={here}/mine.py",
        "failed: unknown config key 'optim.learning_rte': did you mean optim.learning_rate",
        edited("c.optim.learning_rte = 3e-2"),
    ),
    (
        "--config={here}/mine.py",
        "mine.py': config.optim.clip_norm=None: expected a number",
        edited("c.optim.clip_norm = None"),
    ),
    (
        "--config={here}/mine.py",
        "mine.py' ended the program: set FOO first",
        config_file("raise SystemExit('set FOO first')\n"),
    ),
    ("--config={here}/mine.py", "ended the program: 3", config_file("import sys\nsys.exit(3)\n")),
    # Their arguments.
    ("--config=configs/urlstm_pdigits.py:quik", "unknown argument 'quik'; known: quick"),
    ("--config=configs/hdetach_copying.py", "name one row, not ''; known: H1, H2"),
    ("--config=configs/hdetach_copying.py:H1,H2", "name one row, not 'H1,H2'"),
    ("--config=configs/hdetach_copying.py:H99", "unknown argument 'H99'; known: H1"),
    ("--config=configs/base.py:H1", "takes 0 positional arguments"),
    # Keys and types.
    (f"{D} --config.model.hidden_sise=8", "did you mean model.hidden_size?"),
    (f"{D} --config.learning_rate=8", "did you mean optim.learning_rate?"),
    (f"{D} --config.zzz=8", "unknown config key 'zzz'; lrd_jax/config/defaults.py lists all keys"),
    (f"{D} --config.train=8", "config.train is a group: set one of its keys"),
    (f"{D} --config.seed", "Missing value for flag --config.seed"),
    (
        f"{D} --config.model.hidden_size=many",
        "--config.model.hidden_size=many: expected an integer",
    ),
    (f"{D} --config.seed=1.5", "--config.seed=1.5: expected an integer"),
    (f"{D} --config.optim.learning_rate=fast", "expected a number"),
    (f"{D} --config.devices.deterministic=maybe", "expected true or false"),
    (f"{D} --config.model.head_hidden=wide", "is not a tuple of int"),
    # Values that no component owns.
    (f"{D} --config.data.batch_size=0", "config.data.batch_size=0: must be 1 or more"),
    (f"{D} --config.optim.learning_rate=0", "config.optim.learning_rate=0.0: must be above 0"),
    (f"{D} --config.optim.learning_rate=nan", "must be a finite number"),
    (f"{D} --config.seed=-1", "config.seed=-1: must be from 0 to"),
    (f"{D} --config.num_seeds=0", "config.num_seeds=0: must be 1 or more"),
    (f"{D} --config.train.num_steps=99999999999", "must be below 2147483648 in magnitude"),
    (f"{D} --config.eval.split=all", "must be one of train, valid, test"),
    (f"{D} --config.data.data_dir=~nobody.here", "there is no such user"),
    (f"{D} '--config.data.name='", "config.data.name='': must be a non-empty string"),
    # Evaluation of what is not there.
    (f"{D} --mode=eval --workdir={{here}}/new", "no run in"),
]

# ---- The same program, in a process of its own with JAX loaded beforehand -----------------------

MAIN = [
    # Values that do not fit, through the whole program; the components' own tables are below.
    (f"{NEW} --config.model.hidden_size=2", "hidden_size"),
    (f"{NEW} --config.devices.cpu_devices=3", "cpu_devices=3 does not divide data.batch_size=50"),
    (f"{NEW} --config.data.permutation=seed:x", "unknown data.permutation 'seed:x'"),
    (f"{NEW} --config.data.permutation=92917", "unknown data.permutation '92917'"),
    (f"{NEW} --config.data.name=digit", "did you mean digits"),
    (f"{NEW} --config.data.pixels_per_step=5", "must be a divisor of the 64 pixels"),
    (f"{NEW} --config.truncate.steps=65", "does not fit a sequence of 64 steps"),
    (f"{NEW} --config.detach.p_block=1.5", "detach.p_block=1.5 is a probability"),
    (f"{NEW} --config.optim.name=lion", "use one of adam, adamw"),
    (f"{NEW} --config.model.cell=lstn", "lstm"),
    (
        "--config={here}/mine.py --workdir={here}/new",
        "the config has no key 'model.cell': start from lrd_jax.config.defaults",
        edited("c.unlock(); del c.model.cell"),
    ),
    # Pictures with captions.
    (FLICKR, "flickr8k is not prepared in .* --from_dir=DIR --data_dir="),
    (f"{SHAPES} --config.aux.kind=predict", "auxiliary losses are for long sequences"),
    (f"{SHAPES} --config.truncate.steps=5", "a caption is short"),
    (f"{SHAPES} --config.model.bidirectional=true", "would read the words"),
    (f"{SHAPES} --config.model.caption=show_tel", "model.caption='show_tel': did you mean show_te"),
    (f"{SHAPES} --config.model.use_bias=false", "model.use_bias=False leaves no bias"),
    (f"{SHAPES} --config.data.encoder=x", "has no effect: data.name=shapes does not know it"),
    (f"{SHAPES} --config.eval.beam_size=0", "eval.beam_size=0: must be 1 or more"),
    (f"{NEW} --config.model.caption=show_attend_tell", "data.name=digits does not know it"),
    # Keys that the chosen component does not know, or no component.
    (f"{NEW} --config.model.gates=O-", "config.model.gates='O-' has no effect: model.cell=urlstm"),
    (f"{NEW} --config.data.delay=5", "config.data.delay=5 has no effect: data.name=digits does"),
    (f"{NEW} --config.optim.decay_rate=0.1", "has no effect: optim.schedule=cosine does not know"),
    (f"{NEW} --config.model.tie_embeddings=true", "has no effect: data.name=digits does not know"),
    (f"{EVAL} --config.data.delay=5", "config.data.delay=5 has no effect: data.name=digits does"),
    (
        "--config={here}/mine.py --workdir={here}/new",
        "unknown config key 'optim.learning_rte': did you mean optim.learning_rate",
        edited("c.unlock(); c.optim.learning_rte = 3e-2"),
    ),
    (
        "--config={here}/mine.py --workdir={here}/new",
        "gates='XX'.* use one of --, C-",
        edited("c.model.gates = 'XX'"),
    ),
    # The tasks with settings of their own.
    (f"{COPY} --config.data.preset=", "data.preset='': name one of hdetach, gu, marker"),
    (f"{COPY} --config.data.preset=mine", "data.preset='mine': name one of hdetach, gu, marker"),
    (f"{COPY} --config.data.delay=0", "data.delay=0 must be at least 1 step"),
    (f"{COPY} --config.data.encoding=two", "unknown data.encoding 'two'"),
    (f"{COPY} --config.data.name=adding --config.data.length=1", "data.length=1: the adding task"),
    (f"{COPY} --config.data.steps_per_epoch=0", "data.steps_per_epoch=0 must be at least 1"),
    # Text.
    (f"{TEXT}=~nobody.here/x", "there is no such user"),
    (f"{TEXT}=gs://bucket/books", "'gs://bucket/books' is a URL"),
    (f"{TEXT}={{here}}/{300 * 'a'}", "is too long for a name: 300 bytes"),
    (f"{TEXT}={{here}}/books", "but for test.txt, there is no .txt file", books("test.txt")),
    (f"{TEXT}={{here}}/books", "may be for train or for valid", books("train.valid.txt")),
    # Sequences of one's own; files that are wrong: tests/data/test_sequence_files.py.
    (f"{OWN}=", "data.path is to name the folder of your sequences"),
    (f"{OWN}={{here}}/none", "there is no file or folder .*none, and no file that begins like it"),
    (f"{OWN}=x --config.data.delay=3", "data.name=sequences does not know it"),
    # Data sets.
    (
        "--config=configs/urlstm_pmnist.py:quick --config.data.data_dir={here}/data"
        " --workdir={here}/new",
        r"urlstm_pdigits\.py.*lrd_jax\.data\.prepare mnist --from_dir.*config\.data\.data_dir",
    ),
    (
        f"{D} --config.data.data_dir={{here}}/data --workdir={{here}}/new",
        r"the prepared data set in .*lrd_digits.* is damaged .*: delete it",
        digits(lambda folder: (folder / "dataset_info.json").unlink()),
    ),
    (
        f"{D} --config.data.data_dir={{here}}/data --workdir={{here}}/new",
        r"the prepared data set in .*lrd_digits.* is damaged .*: delete it",
        digits(lambda folder: (folder / "dataset_info.json").write_text("{")),
    ),
    (
        f"{D} --config.data.data_dir={{here}}/data --workdir={{here}}/new",
        r"the prepared data set in .*lrd_digits.* is damaged .*: delete it",
        digits(cut_files),
    ),
    *(
        (
            f"{D} --config.data.data_dir={{here}}/data --workdir={{here}}/new",
            r"the prepared data set in .*lrd_digits.* is damaged .*: delete it",
            digits(lambda folder, text=text: (folder / "dataset_info.json").write_text(text)),
        )
        for text in ("null", "[]", '{"name": "lrd_digits", "version": "1.0.0"}', "[" * 100_000)
    ),
    # Work directories.
    (f"{DIGITS} --workdir={{here}}/file", "cannot be written.*choose another --workdir", a_file),
    (
        f"{DIGITS} --workdir={{here}}/file/run",
        "cannot be written.*choose another --workdir",
        a_file,
    ),
    (
        f"{RUN} --config.model.hidden_size=9 --config.seed=4",
        r"model\.hidden_size: 8 -> 9.*seed: 0 -> 4.*choose another --workdir",
    ),
    (f"{RUN} --config.train.stop_step=10 --config.seed=4", r"seed: 0 -> 4"),
    (f"{RUN}", "config.json of the work directory is damaged", write("config.json", "{}")),
    (f"{RUN}", "config.json of the work directory is damaged", write("config.json", b"\xff\xfe")),
    (f"{RUN}", "no config.json to tell which", remove("config.json")),
    (f"{RUN}", "no config.json to tell which", remove("config.json", "metrics.jsonl")),
    (
        f"{RUN}",
        "no config.json to tell which",
        remove("config.json", "metrics.jsonl", "checkpoints", "result.json"),
    ),
    (f"{RUN}", "checkpoints of .* are missing", remove("checkpoints", "result.json")),
    (f"{RUN}", "checkpoints of .* are missing", empty("checkpoints"), remove("result.json")),
    (f"{RUN}", "checkpoints and no metrics.jsonl", remove("metrics.jsonl", "result.json")),
    (
        f"{RUN}",
        "metrics.jsonl is cut: 0 bytes of",
        write("metrics.jsonl", ""),
        remove("result.json"),
    ),
    (f"{RUN}", "result.json is damaged .*; remove it", write("result.json", "{")),
    (f"{RUN}", "result.json is damaged .*; remove it", write("result.json", "[]")),
    *(
        (f"{RUN}", "result.json is damaged .*; remove it", write("result.json", text))
        for text in (
            "null",
            "7",
            '{"steps": 30, "num_steps": 30}',
            '{"steps": Infinity, "num_steps": 30}',
            "[" * 100_000,
        )
    ),
    *(
        (f"{RUN}", "result.json is damaged .*; remove it", result_with(**changes))
        for changes in (
            {"best": 7},
            {"best": {"step": 30}},
            {"best": {"step": "many", "valid": {"loss": 1.0}}},
            {"test": None},
            {"test": {"loss": "low"}},
            {"wall_time_s": float("inf")},
            {"wall_time_s": "long"},
            {"steps": 10**9},
            {"metrics": {"loss": 7}},
            {"metrics": {"loss": {"colour": "red"}}},
            {"seeds": {}},
            {"seeds": [{"seed": 0}]},
            {"baselines": [1]},
            {"evaluated": 3},
            {"evaluated": {"test": {"examples": 3}}},
            {"seconds": []},
            {"seconds": {"train_s": "long"}},
            {"by_value": {}},
            {"seeds": [{"seed": None, "best": {"step": 1, "valid": {}}, "test": {}}]},
        )
    ),
    (f"{RUN}", "result.json cannot be read .Is a directory", a_directory("result.json")),
    *(
        (f"{EVAL}", "config.json of the work directory is damaged", write("config.json", text))
        for text in ("[" * 100_000, '{"config": ' * 50_000, "null", "7", '{"config": [1]}')
    ),
    (f"{EVAL}", "no run in .*config.json: Is a directory", a_directory("config.json")),
    *(
        (f"{EVAL}", "no checkpoint in .* is whole", extra_of_all(text))
        for text in ('{"shapes": 7}', "null", "[]", "{", '{"shapes": {}, "sha256": {"a": 1}}')
    ),
    (f"{RUN}", "no checkpoint in .* is whole .*step 30.*step 20", damage_all_checkpoints),
    (f"{RUN}", "is in use by another run; wait for it", lock),
    # Evaluation.
    (f"{EVAL} --config.model.hidden_size=9", "config.model.hidden_size cannot be changed"),
    (f"{EVAL} --config.seed=9", "config.seed cannot be changed"),
    (f"{EVAL} --config.eval.split=all", "must be one of train, valid, test"),
    (f"{EVAL} --config.data.pixels_per_step=4", "do not fit.*kernel"),
    (f"{EVAL} '--config.eval.delays=(20,40)'", "the copying task: leave it out for digits"),
    (f"{EVAL}", "holds no checkpoint yet", remove("checkpoints")),
    (f"{EVAL}", "config.json of the work directory is damaged", write("config.json", "{")),
    (f"{EVAL}", "config.json of the work directory is damaged .it holds", forget("model.cell")),
    (f"{RUN}", "config.json of the work directory is damaged .it holds", forget("model.cell")),
    (
        f"{EVAL}",
        "config.json of the work directory is damaged .*model.cell=3",
        replace("model.cell", 3),
    ),
    (f"{EVAL}", "has format 9, and this version of lrd_jax reads", replace("", 9)),
    (f"{EVAL}", "no checkpoint in .* is whole", damage_all_checkpoints),
]

FROM = "--from_dir={here}/source --data_dir={here}/data"
PREPARE = [
    ("", "the following arguments are required: NAME"),
    ("mnits", "unknown data set 'mnits': did you mean mnist"),
    ("digits --from-dri=x", "unrecognized arguments: --from-dri=x"),
    ("copy/mine --data_dir={here}/data", "data.preset='mine': name one of hdetach, gu, marker"),
    ("tracking/S3-99999999999999 --data_dir={here}/data", "S3-9+ is too large .*smaller variant"),
    (f"adding/{30 * '9'} --data_dir={{here}}/data", "adding/9+ is too large: name a smaller"),
    *(
        (
            f"sequences --from_dir={{here}}/file --data_dir={{here}}/data --name={name}",
            "names no folder: use letters",
            a_file,
        )
        for name in ("../../x", "..", "a/b")
    ),
    ("digits/big --data_dir={here}/data", "digits has no variants: leave out /big"),
    (f"digits {FROM}", "digits needs no source files: leave out --from_dir", garbage()),
    (f"mnist {FROM}", "there is no directory .*source"),
    (f"mnist {FROM}", f"lacks {TEST_LABELS}", garbage(TEST_LABELS)),
    (f"mnist {FROM}", "has the wrong sha256: expected 440fcabf73.*, actual", garbage()),
    (f"cifar10 {FROM}", "lacks", garbage()),
    (f"mnist {FROM}", "train-images.*has the wrong sha256: expected 440f", real_sources(cut)),
    (f"mnist {FROM}", "t10k-images.*has the wrong sha256: expected 8d42", real_sources(flip)),
    (f"mnist {FROM}", "t10k-labels.*it holds the contents of train-labels", real_sources(swap)),
    ("digits --data_dir={here}/file/data", "cannot write to.*choose another data_dir", a_file),
    ("mnist --data_dir=~nobody.here", "there is no such user"),
    ("digits --data_dir=gs://bucket/data", "'gs://bucket/data' is a URL"),
    ("mnist --data_dir={here}/data --from_dir=https://a.b/c", "'https://a.b/c' is a URL"),
    (f"digits --data_dir={{here}}/{300 * 'a'}", "is too long for a name: 300 bytes"),
    (f"mnist {FROM}".replace("{here}/source", "~nobody.here"), "there is no such user"),
    ("mnist --data_dir={here}/data", "is not prepared in .* and cannot be downloaded"),
]

REPRODUCE = [
    ("", "name an experiment: .*digits_bfloat16, "),
    ("nothing", "invalid choice: 'nothing'"),
    ("digits_urlstm --steps=many", "invalid int value: 'many'"),
    ("digits_urlstm --steps=-1", "--steps and --budget-minutes must be 0 or more"),
    ("digits_urlstm --budget-minutes=nan", "--steps and --budget-minutes must be 0 or more"),
    ("digits_urlstm --steps=1 --budget-minutes=1", "exclude each other"),
    ("digits_urlstm --set=hidden=3", "unknown config key 'hidden'"),
    ("digits_urlstm --set=model.hidden_size=x --steps=5", "expected an integer"),
    ("digits_urlstm --set=optim.learning_rate=-1", "must be above 0"),
    ("pmnist_gates --set=model.cell=lstm", "'LSTM .untied.' and 'UR-LSTM' are the same model"),
    ("digits_urlstm --stpes=1", "unrecognized arguments: --stpes=1"),
    ("digits_urlstm --seeds=0", "--seeds must be 1 or more"),
    ("digits_urlstm --set=num_seeds=3", "use --seeds"),
    ("digits_urlstm --table", "leave out the name, or --table"),
    ("digits_urlstm --out=results/mine", "choose another --out"),
]


@pytest.fixture(scope="module")
def finished(program, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    program.train(workdir)
    return workdir


@pytest.fixture
def scene(program, digits_dir, tmp_path, finished):
    with contextlib.ExitStack() as stack:
        yield Scene(digits_dir, tmp_path, finished, stack)


def everything(folder):
    """All files with their bytes, and the folders on top; a place for data may be made there.

    What Python and the kernel need beside the files is left out.
    """
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
    files = {path: content for path, content in files.items() if path.parent.name != "__pycache__"}
    return files, {path.name for path in folder.glob("*")} - {"data", "__pycache__"}


def name(row):
    return row[0]


def check(scene, row, refuse, **program):
    """Runs a row in its scene: refused in one line, and everything as it was."""
    arguments, message, *acts = row
    words = scene.fill(arguments)
    for act in acts:
        act(scene)
    before = everything(scene.here)
    line = refuse(*words, **program)
    assert re.search(message, line), line
    assert everything(scene.here) == before


@pytest.mark.parametrize("row", QUICK, ids=name)
def test_a_wrong_command_line(program, scene, row):
    check(scene, row, program.refuse)


@pytest.mark.parametrize("row", MAIN, ids=name)
def test_a_wrong_run(preloaded, scene, row):
    check(scene, row, preloaded.refuse, module="lrd_jax.main")


@pytest.mark.parametrize("row", PREPARE, ids=name)
def test_a_wrong_preparation(preloaded, scene, row):
    check(scene, row, preloaded.refuse, module="lrd_jax.data.prepare")


@pytest.mark.parametrize("row", REPRODUCE, ids=name)
def test_a_wrong_reproduction(preloaded, scene, row):
    begun = ROOT / "runs" / "reproduce"
    before = everything(begun)
    check(scene, row, preloaded.refuse, script="scripts/reproduce.py", prefix="reproduce: error: ")
    assert everything(begun) == before


def test_there_are_enough_of_them():
    assert len(QUICK) > 30 and len(QUICK + MAIN + PREPARE + REPRODUCE) >= 60


# ---- In this process: from the flags to the loop, where each part refuses its own --------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("model.hidden_size=2", "hidden_size"),
        ("model.hidden_size=0", "hidden_size"),
        ("model.cell=lstn", "lstm"),
        ("model.cell=gated_lstm model.gates=XX", "gates"),
        ("model.cell=onlstm model.chunk_size=3", "chunk_size"),
        ("model.num_layers=0", "model.num_layers=0 must be 1 or more"),
        ("model.dropout=1.0", "model.dropout=1.0 is a rate"),
        ("model.compute_dtype=float16", "use one of float32, bfloat16"),
        ("model.backend=cuda", "unknown model.backend='cuda'"),
        ("model.head_hidden=(0,)", "head_hidden"),
        ("detach.p_block=1.5", "detach.p_block=1.5 is a probability"),
        ("detach.c_block=-0.1", "detach.c_block=-0.1 is a probability"),
        ("detach.scope=row", "use one of batch, example"),
        ("detach.stack_mask=none", "use one of shared, per_layer"),
        ("detach.off_last_epochs=-1", "detach.off_last_epochs=-1"),
        ("model.cell=gru detach.c_block=0.5", "needs a cell with a memory c"),
        ("truncate.steps=65", "does not fit a sequence of 64 steps"),
        ("truncate.steps=-1", "truncate.steps=-1"),
        ("truncate.supervised=never", "use same (as truncate.steps), stop, or a number"),
        ("truncate.supervised=65", "steps from 0 (all the way) to 64"),
        ("truncate.supervised=-1", "steps from 0 (all the way) to"),
        ("aux.kind=rebuild", "unknown aux.kind='rebuild': use one of none, reconstruct"),
        ("aux.kind=predict aux.segment_length=65", "leaves no legal anchor to predict"),
        ("aux.kind=both aux.segment_length=64", "leaves no legal anchor to reconstruct"),
        ("aux.kind=predict aux.segment_length=1", "use at least 2 steps"),
        ("aux.kind=predict aux.segment_length=60 aux.gap=5", "aux.gap=5 leaves no legal anchor"),
        ("aux.kind=predict aux.segment_length=9 aux.gap=-2", "a gap from 0 (-1 = random)"),
        ("aux.kind=predict aux.segment_length=9 aux.loss=mae", "use one of auto, mse, ce"),
        ("aux.kind=predict aux.segment_length=9 aux.scope=row", "use one of batch, example"),
        ("aux.kind=predict aux.segment_length=9 aux.decoder_feed=x", "use one of teacher, none"),
        (
            "aux.kind=predict aux.segment_length=9 aux.n_anchors=0",
            "aux.n_anchors=0 must be 1 or more",
        ),
        ("aux.kind=predict aux.segment_length=9 aux.decoder_layers=0", "must be 1 or more"),
        ("aux.kind=predict aux.segment_length=9 aux.head_hidden=(0,)", "holds widths"),
        ("aux.kind=predict aux.segment_length=9 aux.weight=-1.0", "must be 0 or more"),
        ("aux.kind=predict aux.segment_length=9 aux.reverse=true", "is for reconstruction"),
        ("aux.kind=predict aux.segment_length=9 model.bidirectional=true", "the past alone"),
        ("aux.kind=predict aux.segment_length=9 aux.embedding=half", "use one of none, decoder"),
        ("aux.kind=predict aux.segment_length=9 aux.embedding=decoder", "set model.embedding_size"),
        ("model.embedding=tabel", "did you mean table"),
        ("model.embedding=table", "set model.embedding_size"),
        # What is switched off is checked all the same.
        ("aux.loss=mae", "use one of auto, mse, ce"),
        ("aux.decoder_feed=x", "use one of teacher, none"),
        ("aux.weight=-1.0", "must be 0 or more"),
        ("aux.head_hidden=(0,)", "holds widths"),
        ("aux.kind=predict aux.segment_length=9 aux.pretrain_epochs=9.0", "covers all 30 steps"),
        ("aux.pretrain_epochs=-1.0", "aux.pretrain_epochs=-1.0: must be 0 or more"),
        ("optim.pretrain_decay=0.0", "optim.pretrain_decay=0.0 is a factor"),
        ("model.embedding_size=-1", "model.embedding_size=-1 must be 0"),
        ("model.head_dropconnect=1.0", "model.head_dropconnect=1.0 is a rate"),
        ("model.head_dropconnect=0.5 model.head_hidden=()", "acts on the head's second matrix"),
        ("model.hidden_size=2000000000", "parameters and optimizer state need"),
        ("model.num_layers=100000", "would compile for about 1667 minutes"),
        ("model.num_layers=1000 model.bidirectional=true", "2000 layers (model.num_layers=1000"),
        ("aux.kind=predict aux.segment_length=9 aux.decoder_layers=1000", "lower model.num_layers"),
        ("train.steps_per_call=2147483647", "lower train.steps_per_call"),
        ("data.batch_size=2000000000", "more than the 1297 training examples"),
        ("optim.name=lion", "use one of adam, adamw"),
        ("optim.name=adam optim.weight_decay=0.1", "needs optim.name=adamw"),
        ("optim.clip_norm=-1.0", "optim.clip_norm=-1.0: must be 0 or more"),
        ("optim.warmup_steps=-1", "optim.warmup_steps=-1: must be 0 or more"),
        ("optim.schedule=step", "optim.decay_every_epochs >= 1"),
        ("train.stop_step=-1", "train.stop_step=-1: must be 0 or more"),
        ("train.num_steps=0 train.num_epochs=1e9", "train.num_epochs"),
        ("data.name=digit", "did you mean digits"),
        ("data.batch_size=0", "data.batch_size"),
        ("data.batch_size=6", "the nearest that does is"),
        ("data.pixels_per_step=5", "divisor of the 64 pixels"),
        ("data.order=row", "whole rows"),
        ("data.order=col", "use pixel or row"),
        ("data.permutation=reverse", "permutation"),
        ("data.valid_split=last", "data.valid_split='last'"),
    ],
)
def test_every_part_refuses_its_own_values(digits_dir, tmp_path, overrides, message):
    arguments = [f"--config.{override}" for override in overrides.split()]
    arguments.append(f"--config.data.data_dir={digits_dir}")
    config = f"--config={ROOT}/configs/urlstm_pdigits.py:quick"
    argv = ["main", config, "--config.data.batch_size=8", *arguments]
    flag = command_line.parse_flags(argv, flags.FlagValues())
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        loop.train(flag.config, workdir, flag.spec)
    assert "\n" not in str(caught.value)
    assert not workdir.exists()
