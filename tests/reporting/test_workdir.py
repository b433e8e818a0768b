"""A work directory whose record of a run is partly missing."""

import json

import pytest

from lrd_jax.errors import UserError
from lrd_jax.reporting.workdir import (
    check_checkpoints,
    check_metrics,
    check_unused,
    work_directory,
)


def record(workdir, *lines):
    """Writes metrics, each "step split"."""
    pairs = (line.split() for line in lines)
    text = "".join(json.dumps({"step": int(s), "split": split}) + "\n" for s, split in pairs)
    (workdir / "metrics.jsonl").write_text(text, encoding="utf-8")


def test_a_run_killed_before_its_first_checkpoint_may_start_over(tmp_path):
    check_checkpoints(tmp_path, 0)  # killed before anything
    (tmp_path / "checkpoints" / "10.orbax-checkpoint-tmp").mkdir(parents=True)
    record(tmp_path, "5 train", "10 train", "10 valid", "20 train", "20 valid")
    check_checkpoints(tmp_path, 0)  # the save of step 10 may still be under way
    check_checkpoints(tmp_path, 10)


@pytest.mark.parametrize(
    ("every", "lines"),
    [
        (0, ("10 valid", "20 valid", "30 valid")),
        (4, ("9 train",)),
        (0, ("10 valid", "10 test")),
    ],
)
def test_a_run_that_saved_may_not(tmp_path, every, lines):
    (tmp_path / "checkpoints").mkdir()
    record(tmp_path, *lines)
    with pytest.raises(UserError, match="are missing, and training would start over"):
        check_checkpoints(tmp_path, every)
    (tmp_path / "checkpoints" / "4").mkdir()
    check_checkpoints(tmp_path, every)


def test_without_the_folder_or_with_a_result_it_had_saved(tmp_path):
    record(tmp_path, "1 train")
    with pytest.raises(UserError, match="are missing"):
        check_checkpoints(tmp_path, 0)
    (tmp_path / "checkpoints").mkdir()
    check_checkpoints(tmp_path, 0)
    (tmp_path / "result.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="are missing"):
        check_checkpoints(tmp_path, 0)


def test_what_was_set_aside_counts_as_a_checkpoint(tmp_path):
    (tmp_path / "checkpoints_replaced" / "10").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no metrics\.jsonl"):
        check_checkpoints(tmp_path, 0)
    record(tmp_path, "10 train")
    check_checkpoints(tmp_path, 0)


def test_metrics_may_have_grown_and_not_shrunk(tmp_path):
    check_metrics(tmp_path, 0)
    record(tmp_path, "10 train")
    size = (tmp_path / "metrics.jsonl").stat().st_size
    check_metrics(tmp_path, size - 1)
    check_metrics(tmp_path, size)
    with pytest.raises(UserError, match="is cut"):
        check_metrics(tmp_path, size + 1)


@pytest.mark.parametrize(
    "name", ["checkpoints", "metrics.jsonl", "result.json", "vocabulary.json", "tensorboard"]
)
def test_any_trace_of_a_run_needs_its_config(tmp_path, name):
    check_unused(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"holds {name}"):
        check_unused(tmp_path)


OUT_OF_MEMORY = (MemoryError("no room"), RuntimeError("RESOURCE_EXHAUSTED: Out of memory"))


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("earlier", [None, "notes.txt"])
def test_without_memory_before_the_first_save_nothing_new_stays(tmp_path, error, earlier):
    folder = tmp_path / "run"
    if earlier:
        folder.mkdir()
        (folder / earlier).write_text("mine", encoding="utf-8")
    with pytest.raises(type(error)), work_directory(folder):
        (folder / "config.json").write_text("{}", encoding="utf-8")
        (folder / "checkpoints").mkdir()
        raise error
    assert folder.exists() == bool(earlier)
    assert [path.name for path in folder.glob("*")] == ([earlier] if earlier else [])


@pytest.mark.parametrize(("error", "saved"), [(OUT_OF_MEMORY[0], True), (OSError("full"), False)])
def test_what_was_saved_or_failed_otherwise_stays(tmp_path, error, saved):
    with pytest.raises(type(error)), work_directory(tmp_path / "run"):
        (tmp_path / "run" / "checkpoints" / ("10" if saved else "")).mkdir(parents=True)
        raise error
    assert (tmp_path / "run" / "checkpoints").is_dir()
