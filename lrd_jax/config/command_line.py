"""The command line: a config file and its overrides, every mistake in one line."""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

from lrd_jax.config.paths import split_spec
from lrd_jax.config.record import flatten
from lrd_jax.errors import UserError, did_you_mean, one_line


class ConfigFlag(NamedTuple):
    """What the command line says about the config."""

    spec: str  # the value of --config: "FILE.py" or "FILE.py:ARGUMENT"
    config: ml_collections.ConfigDict  # locked, with the overrides in place
    overrides: dict[str, Any]  # what --config.KEY=VALUE set, by key


def parse_flags(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> ConfigFlag:
    """Parses the command line; `app.run(main, flags_parser=parse_flags)` hands `main` the result.

    `config_flags.DEFINE_config_file` reports a missing file only when the config is first used, a
    wrong key as a KeyError and a faulty file as whatever it raised; it also loads files through an
    importlib function on its way out of Python. So the file is loaded and the keys are looked up
    here, and `config_flags` gets the loaded config to override. Every refusal is a UserError.

    Args:
      argv: program name and arguments.
      flag_values: the program's other flags; `config` is added.

    Raises:
      UserError: Unknown flag, key or config file, wrong value, or a positional argument.
    """
    try:
        spec, keys, rest = _split_config(flag_values.read_flags_from_files(list(argv), False))
        if not spec:
            flags.DEFINE_string("config", None, _CONFIG_HELP, flag_values=flag_values)
            _parse(rest, flag_values)  # answers --help, and tells of other wrong flags first
            raise UserError(_NO_CONFIG)
        config = load_config(spec)
        defaults = flatten(config)
        for key in keys:
            _check_key(key, defaults)
        config_flags.DEFINE_config_dict(
            "config", config, _CONFIG_HELP, flag_values=flag_values, sys_argv=rest
        )
        _parse(rest, flag_values)
    except flags.Error as error:
        raise UserError(_flag_message(str(error))) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"--flagfile names a file that is not text in UTF-8 ({error.reason})"
        ) from error
    overrides = dict(config_flags.get_override_values(flag_values["config"]))
    for key, value in overrides.items():
        _check_tuple(key, value, defaults[key])
    return ConfigFlag(spec, config, overrides)


def load_config(spec: str) -> ml_collections.ConfigDict:
    """Loads a config file.

    Args:
      spec: path of a Python file with a function `get_config`; what follows a colon is its
        argument, e.g. "configs/hdetach_copying.py:H6,quick".

    Returns:
      The config, locked.

    Raises:
      UserError: There is no such file, it fails, or it refuses the argument.
    """
    name, colon, argument = split_spec(spec)
    path = pathlib.Path(name)
    if not os.path.isfile(path):  # False for names too long as well
        raise UserError(f"there is no config file {name!r}")
    # Experiments import configs.base; let them find it from any current directory.
    root = str(path.resolve().parent.parent)
    if root not in sys.path:
        sys.path.append(root)
    try:
        module_spec = importlib.util.spec_from_file_location("_lrd_jax_config", path)
        if module_spec is None or module_spec.loader is None:
            raise UserError(f"config file {name!r} is not a Python file (.py)")
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise UserError(f"config file {name!r} has no function get_config")
        config = module.get_config(argument) if colon else module.get_config()
    except UserError:
        raise
    except Exception as error:  # anything at all may happen in somebody's Python file
        raise UserError(
            f"config file {spec!r} failed: {type(error).__name__}: {one_line(str(error))}"
        ) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"get_config of {name!r} returned {type(config).__name__}, not an ml_collections "
            "ConfigDict"
        )
    return config.lock()


def config_name(spec: str) -> str:
    """Returns the name of a config for people and paths: the file's, and its argument's.

    >>> config_name("configs/hdetach_copying.py:H6,quick")
    'hdetach_copying-H6-quick'
    """
    path, _, argument = split_spec(spec)
    parts = [pathlib.Path(path).stem, *re.split(r"[^\w.+=]+", argument)]
    return "-".join(part for part in parts if part)


class ArgumentParser(argparse.ArgumentParser):
    """For the programs beside `main`: a mistake is a UserError, not a usage and `sys.exit`."""

    def error(self, message: str) -> NoReturn:
        """Refuses the command line."""
        raise UserError(f"{one_line(message)}; --help tells more")


_ALL_KEYS = "; lrd_jax/config/defaults.py lists all keys"
_NO_CONFIG = "no config: give --config=FILE first, for instance --config=configs/urlstm_pdigits.py"
_CONFIG_HELP = (
    "Config file; its argument stands after a colon: FILE.py:ROW,quick. "
    "--config.KEY=VALUE sets one key."
)


def _split_config(argv: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """Returns --config's value ("" if none), the keys overridden, and argv without --config."""
    spec, keys, rest = "", [], list(argv[:1])
    arguments = iter(argv[1:])
    for argument in arguments:
        if argument == "--":  # whatever follows is no flag
            return spec, keys, [*rest, argument, *arguments]
        if match := re.fullmatch(r"--?config(?:=(.*))?", argument, re.DOTALL):
            if spec:
                raise UserError("--config is given twice: a run has one config")
            spec = next(arguments, "") if match[1] is None else match[1]
            continue
        if match := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            if not spec:
                raise UserError(_NO_CONFIG)
            keys.append(match[1])
        rest.append(argument)
    return spec, keys, rest


def _parse(argv: list[str], flag_values: flags.FlagValues) -> None:
    # --help shows the flags of the program's own module, and this one is defined elsewhere.
    flag_values.register_key_flag_for_module(argv[0], flag_values["config"])
    positional = flag_values(argv)[1:]
    if positional:
        raise UserError(
            f"unexpected argument {positional[0]!r}: values are given as --flag=value, "
            "for instance --config=configs/urlstm_pdigits.py"
        )


def _check_key(key: str, known: Mapping[str, Any]) -> None:
    if key in known:
        return
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        raise UserError(f"config.{key} is a group: set one of its keys, for instance {inside[0]}")
    raise UserError(f"unknown config key {key!r}" + (did_you_mean(key, known) or _ALL_KEYS))


def _check_tuple(key: str, value: Any, default: Any) -> None:
    """Refuses elements of another type: the tuple parser takes "(256" for the text "(256"."""
    if not isinstance(default, tuple):
        return
    kinds = {type(element) for element in default} or {int, float}  # no default: numbers
    if float in kinds:
        kinds.add(int)
    if any(type(element) not in kinds for element in value):
        names = " or ".join(sorted(kind.__name__ for kind in kinds))
        raise UserError(
            f"--config.{key}: {value!r} is not a tuple of {names}; write it like "
            f"'--config.{key}={default or (200, 400)}'"
        )


def _flag_message(message: str) -> str:
    """Returns absl's message in one line, with the expected type where it names a config key."""
    line = one_line(message.removeprefix("ERROR:: "))
    match = re.match(r"flag --(config\.[\w.]+)=(.*?): ", line)
    if not match:
        return line
    lower = line.lower()
    expected = next(
        (
            name
            for sign, name in (
                ("base 10", "an integer"),
                ("boolean", "true or false"),
                ("float", "a number"),
                ("tuple", "a tuple such as (256,)"),
            )
            if sign in lower[match.end() :]
        ),
        None,
    )
    return f"--{match[1]}={match[2]}: expected {expected}" if expected else line
