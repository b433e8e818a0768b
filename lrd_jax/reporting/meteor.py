"""METEOR 1.5 of captions, by the package `pycocoevalcap` and a Java runtime."""

from __future__ import annotations

import contextlib
import importlib
import shutil
from collections.abc import Sequence

from lrd_jax.errors import RunError, UserError

WAYS = ("auto", "on", "off")
_EXTRA = "pip install 'lrd-jax[captioning-meteor]'"


def missing() -> str:
    """Returns what is missing for METEOR, "" if it can run."""
    try:
        importlib.import_module("pycocoevalcap.meteor.meteor")
    except ImportError:
        return f"pycocoevalcap ({_EXTRA})"
    return "" if shutil.which("java") else "a Java runtime"


def wanted(way: str) -> bool:
    """Tells whether METEOR is to be computed; says in a line why it is not.

    Args:
      way: `eval.meteor`.

    Raises:
      UserError: it must be, and cannot.
    """
    if way == "off":
        return False
    if not (lacking := missing()):
        return True
    if way == "on":
        raise UserError(f"eval.meteor=on needs {lacking}; or set it to auto")
    print(f"no METEOR: it needs pycocoevalcap ({_EXTRA}) and a Java runtime")
    return False


def meteor(
    captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> float:
    """METEOR 1.5 (Denkowski and Lavie 2014) of one caption for each image.

    Args:
      captions: words of each.
      references: of each image its captions.

    Raises:
      RunError: Java failed.
    """
    module = importlib.import_module("pycocoevalcap.meteor.meteor")
    # An empty caption would end the protocol of its server.
    said = {i: [" ".join(words) or "."] for i, words in enumerate(captions)}
    right = {i: [" ".join(words) for words in each] for i, each in enumerate(references)}
    scorer = module.Meteor()
    try:
        return float(scorer.compute_score(right, said)[0])
    except Exception as error:  # whatever comes of a broken pipe
        raise RunError(f"METEOR failed ({error!r}); set eval.meteor=off") from error
    finally:
        with contextlib.suppress(Exception):
            scorer.meteor_p.kill()
            scorer.meteor_p.wait()
            for pipe in (scorer.meteor_p.stdin, scorer.meteor_p.stdout, scorer.meteor_p.stderr):
                pipe.close()
