"""Which file and row a work directory was made from, and evaluation without naming them."""

import json

import pytest
from absl import flags

from lrd_jax.config import command_line, defaults
from lrd_jax.config.source import check_made_from, made_from
from lrd_jax.errors import UserError

# `wide` has a second name; `quick` is not a row.
CONFIG = """
from lrd_jax.config import defaults

ROWS = {"A1": {"seed": 1}, "wide": {"seed": 1}, "A2": {"seed": 2}}

def get_config(arg=""):
    return defaults.finish(defaults.get_config(), arg, ROWS)
"""


@pytest.fixture
def files(tmp_path):
    for name in ("one/config.py", "one/other.py", "two/config.py", "moved/one/config.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CONFIG, "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("recorded", "given", "same"),
    [
        ("one/config.py:A1", "one/config.py:A1", True),
        ("one/config.py:A1,quick", "one/config.py:A1", True),
        ("one/config.py:A1", "one/config.py:quick,A1", True),
        ("one/config.py:A1", "one/config.py:wide,quick", True),
        ("one/config.py:A1", "moved/one/config.py:A1", True),
        ("one/config.py:A1", "one/config.py:A2", False),
        ("one/config.py:gone", "one/config.py:A2", False),
        ("one/config.py:A1", "one/other.py:A1", False),
        ("one/config.py:A1", "two/config.py:A1", False),
        ("", "one/config.py:A2", True),  # made in Python
        ("one/config.py:A1", "", True),
    ],
)
def test_another_file_or_row_is_refused(files, recorded, given, same):
    recorded, given = (f"{files}/{spec}" if spec else "" for spec in (recorded, given))
    (files / "config.json").write_text(json.dumps(made_from(recorded)), "utf-8")
    if same:
        check_made_from(files, given)
        return
    with pytest.raises(UserError, match=r"was made from one/config.py:.*leave out --config"):
        check_made_from(files, given)


def test_what_is_recorded_names_no_place(files):
    recorded = made_from(f"{files}/one/config.py:A1,quick")
    assert recorded == {"made_from": {"file": "one/config.py", "argument": "A1,quick"}}


def parse(*arguments, **found):
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "", flag_values=values)

    def find():
        return found.get(values.mode)

    return command_line.parse_flags(["main", *arguments], values, find)


def test_a_config_may_be_found_where_none_is_given():
    config = defaults.get_config()
    flag = parse("--config.eval.split=valid", "--mode=eval", "--config.seed=3", eval=config)
    assert flag.spec == "" and flag.overrides == {"eval.split": "valid", "seed": 3}
    assert flag.config.eval.split == "valid"
    with pytest.raises(UserError, match=r"did you mean eval\.split"):
        parse("--config.eval.splt=valid", "--mode=eval", eval=defaults.get_config())
    with pytest.raises(UserError, match="no config: give"):
        parse("--config.eval.split=valid", eval=config)
    with pytest.raises(UserError, match=r"should be one of <train\|eval>"):
        parse("--config.eval.split=valid", "--mode=test", eval=config)
