"""The command line: a config file and its overrides, every mistake in one line."""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

from lrd_jax.config.defaults import get_config
from lrd_jax.config.paths import split_spec
from lrd_jax.config.values import check_elements, conform, flatten, typed
from lrd_jax.errors import UserError, did_you_mean, one_line


class ConfigFlag(NamedTuple):
    """What the command line says about the config."""

    spec: str  # the value of --config: "FILE.py" or "FILE.py:ARGUMENT"; "" if not given
    config: ml_collections.ConfigDict  # locked, with the overrides in place
    overrides: dict[str, Any]  # what --config.KEY=VALUE set, by key


def parse_flags(
    argv: Sequence[str],
    flag_values: flags.FlagValues = flags.FLAGS,
    find_config: Callable[[], ml_collections.ConfigDict | None] = lambda: None,
) -> ConfigFlag:
    """Parses the command line; `app.run(main, flags_parser=parse_flags)` hands `main` the result.

    `config_flags.DEFINE_config_file` reports a missing file only when the config is first used, a
    wrong key as a KeyError and a faulty file as whatever it raised; it also loads files through an
    importlib function on its way out of Python. So the file is loaded and the keys are looked up
    here, and `config_flags` gets the loaded config to override. Every refusal is a UserError.

    Args:
      argv: program name and arguments.
      flag_values: the program's other flags; `config` is added.
      find_config: called where `--config` is not given, with the other flags parsed; None: it must
        be given.

    Raises:
      UserError: Unknown flag, key or config file, wrong value, or a positional argument.
    """
    try:
        spec, keys, rest = _split_config(flag_values.read_flags_from_files(list(argv), False))
        config = load_config(spec) if spec else _find(find_config, rest, flag_values)
        defaults, known = flatten(config), flatten(get_config())
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
        if isinstance(value, tuple):  # its parser takes "(256" for the text "(256"
            check_elements(key, value, known.get(key, defaults[key]))
    return ConfigFlag(spec, config, overrides)


def load_config(spec: str | os.PathLike[str]) -> ml_collections.ConfigDict:
    """Loads a config file.

    Args:
      spec: path of a Python file with a function `get_config`; what follows a colon is its
        argument, e.g. "configs/hdetach_copying.py:H6,quick".

    Returns:
      The config, locked, every value of the type of its default.

    Raises:
      UserError: There is no such file, it fails, it refuses the argument, or what it sets is no key
        or of another type.
    """
    if isinstance(spec, os.PathLike):
        spec = os.fspath(spec)
    if not isinstance(spec, str):
        raise UserError(
            f"the config file is of type {type(spec).__name__}, and must be given as a string such"
            " as 'configs/urlstm_pdigits.py:quick'"
        )
    name, colon, argument = split_spec(spec)
    try:
        module = load_module(name)
        if not callable(getattr(module, "get_config", None)):
            raise UserError(f"config file {name!r} has no function get_config")
        config = module.get_config(argument) if colon else module.get_config()
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(f"config file {spec!r} ended the program: {error.code}") from error
    except Exception as error:  # anything at all may happen in somebody's Python file
        reason = _refused_by_config(error) or f"{type(error).__name__}: {one_line(str(error))}"
        raise UserError(f"config file {spec!r} failed: {reason}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"get_config of {name!r} returned {type(config).__name__}, not an ml_collections "
            "ConfigDict"
        )
    try:
        return conform(config)
    except UserError as error:
        raise UserError(f"config file {spec!r}: {error}") from error


def load_module(path: str | os.PathLike[str]) -> Any:
    """Loads a Python file by its path, for instance the experiment beside one that changes it.

    Raises:
      UserError: There is no such file, or its name does not end in .py.
    """
    path = pathlib.Path(path)
    if not os.path.isfile(path):  # False for names too long as well
        raise UserError(f"there is no config file {os.fspath(path)!r}")
    spec = importlib.util.spec_from_file_location(f"_lrd_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"config file {os.fspath(path)!r} is not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(spec.name)
    sys.modules[spec.name] = module  # where dataclasses that the file defines look themselves up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(spec.name)
        if before is not None:
            sys.modules[spec.name] = before
        raise
    return module


def _refused_by_config(error: Exception) -> str:
    """Says what a locked config refused, as for the command line; "" where it was something else.

    `ml_collections` knows the key alone, and not its group; the frame that refused knows both.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if frame.f_globals["__name__"] != ml_collections.ConfigDict.__module__:
        return ""
    names = frame.f_locals
    group, key = names.get("self"), names.get("full_key", names.get("key", names.get("attribute")))
    if not isinstance(group, ml_collections.ConfigDict) or not isinstance(key, str):
        return ""
    defaults = get_config()
    path = next((f"{n}.{key}" for n, g in defaults.items() if _is_group(group, g)), key)
    known = flatten(defaults)
    try:
        if path not in known:
            groups = [] if path in defaults else defaults.keys()
            _check_key(path, [*known, *groups])
        elif "value" in names:
            value = typed(path, names["value"], known[path])
            return f"config.{path}={names['value']!r}: write it as {value!r}"
    except UserError as wrong:
        return str(wrong)
    return ""


def _is_group(group: ml_collections.ConfigDict, default: Any) -> bool:
    return isinstance(default, ml_collections.ConfigDict) and set(default) <= set(group)


def config_name(spec: str) -> str:
    """Returns the name of a config for people and paths: the file's, and its argument's.

    >>> config_name("configs/hdetach_copying.py:H6,quick")
    'hdetach_copying-H6-quick'
    """
    path, _, argument = split_spec(spec)
    words = re.sub(r"[^\w.+=-]+", "-", argument)  # a row may end in a hyphen: G2---
    return "-".join(part for part in (pathlib.Path(path).stem, words) if part)


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
            if keys:
                raise UserError(_NO_CONFIG)
            spec = next(arguments, "") if match[1] is None else match[1]
            continue
        if match := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            keys.append(match[1])
        rest.append(argument)
    return spec, keys, rest


def _find(
    find_config: Callable[[], ml_collections.ConfigDict | None],
    argv: list[str],
    flag_values: flags.FlagValues,
) -> ml_collections.ConfigDict:
    """Parses all flags but those of the config, and asks for it."""
    flags.DEFINE_string("config", None, _CONFIG_HELP, flag_values=flag_values)
    # Answers --help, and tells of other wrong flags first.
    _parse([word for word in argv if not re.match(r"--?(?:no)?config\.", word)], flag_values)
    config = find_config()
    if config is None:
        raise UserError(_NO_CONFIG)
    delattr(flag_values, "config")
    return config


def _parse(argv: list[str], flag_values: flags.FlagValues) -> None:
    # --help shows the flags of the program's own module, and this one is defined elsewhere.
    flag_values.register_key_flag_for_module(argv[0], flag_values["config"])
    positional = flag_values(argv)[1:]
    if positional:
        raise UserError(
            f"unexpected argument {positional[0]!r}: values are given as --flag=value, "
            "for instance --config=configs/urlstm_pdigits.py"
        )


def _check_key(key: str, known: Collection[str]) -> None:
    """Raises UserError for a key that is unknown, or a group; with a hint."""
    if key in known:
        return
    if key == "eval.image_dir":  # was a key once
        raise UserError(
            "config.eval.image_dir is gone, pictures are captioned by python -m lrd_jax.predict"
            " --workdir=DIR --input=PICTURES --output=captions.csv"
        )
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        raise UserError(f"config.{key} is a group: set one of its keys, for instance {inside[0]}")
    raise UserError(f"unknown config key {key!r}" + (did_you_mean(key, known) or _ALL_KEYS))


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
