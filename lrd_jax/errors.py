"""How a run can end early, as a user sees it; `main.py` turns each into an exit status.

Also what messages share: one line, and the nearest known name. Nothing here loads JAX.
"""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Collection, Iterable
from typing import Any


class UserError(ValueError):
    """Bad input: nothing was started, nothing written before is touched (exit status 2).

    The message is one line that says what is wrong and what to do about it.
    """


class RunError(RuntimeError):
    """A run that had started could not go on: NaN loss, full disk, lost peer (exit status 1)."""


class Interrupted(Exception):
    """A signal stopped the run after it had saved (exit status 128 + signal)."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


def out_of_memory(error: BaseException) -> bool:
    """Tells whether an error, of Python or of XLA, says that the memory is used up."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def one_line(text: str) -> str:
    """Returns the text with every run of white space made one blank."""
    return " ".join(text.split())


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Returns ": did you mean X?" with the known name most alike, or "" where none is alike.

    Names are compared in whole and in their last dotted part (a key whose group was forgotten).
    """

    def likeness(other: str) -> tuple[float, float]:
        whole = difflib.SequenceMatcher(None, name, other).ratio()
        last = name.rpartition(".")[2], other.rpartition(".")[2]
        return max(whole, difflib.SequenceMatcher(None, *last).ratio()), whole

    nearest = max(known, key=likeness, default="")
    return f": did you mean {nearest}?" if nearest and likeness(nearest)[0] >= 0.6 else ""


def unknown(what: str, name: object, known: Iterable[str]) -> UserError:
    """Returns the error for a name that is not known.

    Args:
      what: of which kind, e.g. "data set" or a config key with "=".
      name: as it was given.
      known: what it may be.
    """
    known = list(known)
    hint = did_you_mean(str(name), known)
    named = f"{what}{name!r}" if what.endswith("=") else f"{what} {name!r}"
    return UserError(f"unknown {named}{hint}{'' if hint else ':'} use one of {', '.join(known)}")


def check_choice(key: str, value: object, known: Iterable[str]) -> None:
    """Raises UserError, with the nearest known value, unless `value` is one of `known`."""
    known = list(known)
    if value not in known:
        raise unknown(f"{key}=", value, known)


_KINDS = {
    "bool": (bool, "True or False"),
    "int": (numbers.Integral, "a whole number"),
    "float": (numbers.Real, "a finite number"),
    "str": (str, "a string"),
}


def check_fields(instance: Any) -> None:
    """Raises UserError where a field of a dataclass is not of the type that it is annotated with.

    Fields of type bool, int, float and str are looked at; numbers of NumPy are numbers.
    """
    for field in dataclasses.fields(instance):
        name = getattr(field.type, "__name__", str(field.type))
        kind, legal = _KINDS.get(name, (object, ""))
        value = getattr(instance, field.name)
        wrong = not isinstance(value, kind) or (
            isinstance(value, bool) and name in ("int", "float")
        )
        if wrong or (name == "float" and not math.isfinite(value)):
            raise UserError(f"{field.name}={one_line(repr(value))[:80]}: must be {legal}")
