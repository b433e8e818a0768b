"""How a run can end early, as a user sees it; `main.py` turns each into an exit status."""


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
