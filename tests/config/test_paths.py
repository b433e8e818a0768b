"""Paths as they are given, and the file and argument of `--config`."""

import pathlib
import pwd
import shutil

import pytest

from lrd_jax.config import checks, command_line
from lrd_jax.config.paths import NoHomeError, expand_user, split_spec
from lrd_jax.data import make_dataset
from lrd_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("path", ["runs/a", "/tmp/x", ".", "10:30/x", "a:b", "x" * 255, "é" * 127])
def test_paths_of_this_machine(path):
    assert expand_user(path) == expand_user(pathlib.Path(path)) == pathlib.Path(path)


def test_homes(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert expand_user("~/data") == pathlib.Path("/somewhere/data")


@pytest.fixture
def homeless(monkeypatch):
    """As in a container that was started under a number: `docker run --user 12345`."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_without_a_home_whole_paths_are_asked_for(homeless):
    assert expand_user("/data") == pathlib.Path("/data")
    assert expand_user("runs/~") == pathlib.Path("runs/~")
    for path in ("~", "~/data"):
        with pytest.raises(NoHomeError, match=r"no home folder.*a whole path with --out$"):
            expand_user(path, "--out")
    with pytest.raises(UserError, match="no such user"):
        expand_user("~nobody.here")


def test_a_home_is_needed_only_where_it_is_used(homeless, caplog):
    config = command_line.load_config(str(ROOT / "configs" / "urlstm_pdigits.py:quick"))
    checks.validate(config)
    assert make_dataset(config).num_train == 1297  # needs no folder
    (record,) = caplog.records
    assert record.getMessage().startswith("digits is made for this run alone: '~/tensorflow_data")
    with config.unlocked():
        config.data.name = "mnist"
    checks.validate(config)
    with pytest.raises(UserError, match=r"give a whole path with --config\.data\.data_dir=DIR"):
        make_dataset(config)
    config.data.data_dir = "~nobody.here/x"
    with pytest.raises(UserError, match="no such user"):
        checks.validate(config)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gs://bucket/run", "is a URL"),
        (pathlib.Path("s3://bucket/run"), "is a URL"),
        ("file:///tmp/x", "is a URL"),
        ("HDFS://a/b", "is a URL"),
        ("dbfs:/a", "is a URL"),
        ("~nobody.here/x", "no such user"),
        ("a\0b", "zero byte"),
        ("x" * 256, "256 bytes"),
        ("é" * 128, "256 bytes"),
        ("/".join(["x" * 100] * 50), "too long"),
    ],
)
def test_what_is_no_path_of_this_machine(path, message):
    with pytest.raises(UserError, match=message) as caught:
        expand_user(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("a.py", ("a.py", "", "")),
        ("a.py:", ("a.py", ":", "")),
        ("a.py:H6,quick", ("a.py", ":", "H6,quick")),
        ("a.py:x:y", ("a.py", ":", "x:y")),
        ("10:30/a.py:H6", ("10:30/a.py", ":", "H6")),
        ("10:30/a.py", ("10:30/a.py", "", "")),
        ("pyproject.toml:x", ("pyproject.toml", ":", "x")),
        ("a.py/b.py:x", ("a.py/b.py", ":", "x")),
        ("a.pyx:b", ("a.pyx", ":", "b")),
    ],
)
def test_file_and_argument(spec, parts):
    assert split_spec(spec) == parts


def test_a_folder_with_a_colon_in_its_name(tmp_path):
    folder = tmp_path / "10:30"
    folder.mkdir()
    shutil.copy(ROOT / "configs" / "urlstm_pdigits.py", folder / "mine.py")
    spec = f"{folder}/mine.py:quick"
    assert command_line.load_config(spec).train.num_steps
    assert command_line.config_name(spec) == "mine-quick"
