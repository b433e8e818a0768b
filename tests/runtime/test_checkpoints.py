"""Saving, restoring, and what happens to damaged checkpoints."""

import gc
import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.errors import RunError, UserError
from lrd_jax.runtime import checkpoints as module
from lrd_jax.runtime.checkpoints import Checkpoints
from tests.training.harness import assert_identical

# Reading a damaged checkpoint, Orbax leaves coroutines behind that nobody waits for.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def no_leftovers():
    yield
    gc.collect()  # here, rather than in a later test, where it would be an error


def make_state(step):
    """All kinds of leaves that a state has; the array is large enough for a file of its own."""
    rng = np.random.default_rng(step)
    return {
        "step": jnp.int32(step),
        "params": {"kernel": jnp.array(rng.normal(size=(64, 128)), jnp.float32)},
        "rng": jnp.array([[step, 7]], jnp.uint32),
        "nothing": (),
        "odd": jnp.array([np.nan, -0.0, np.inf, 1e-45], jnp.float32),
    }


def template():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), make_state(0)
    )


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of steps 10 and 20."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (10, 20):
        checkpoints.save(step, {"state": make_state(step)}, {"wall_time_s": step / 3})
    checkpoints.close()
    return tmp_path / "checkpoints"


def restore(folder, read_only=False):
    checkpoints = Checkpoints(folder, read_only=read_only)
    try:
        restored = checkpoints.restore_latest({"state": template()})
        return restored and (restored[0]["state"], restored[1])
    finally:
        checkpoints.close()


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_byte(folder):
    path = largest_file(folder / "state")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(folder):
    path = largest_file(folder / "state")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fill_with_garbage(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"garbage")


def lose_the_state(folder):
    shutil.rmtree(folder / "state")


def lose_the_digests(folder):
    shutil.rmtree(folder / "extra")


DAMAGES = [
    flip_a_byte,
    *(pytest.param(d, marks=pytest.mark.slow) for d in (cut_short, fill_with_garbage)),
    *(pytest.param(d, marks=pytest.mark.slow) for d in (lose_the_state, lose_the_digests)),
]


def test_round_trip_is_exact_and_the_newest_two_are_kept(folder):
    checkpoints = Checkpoints(folder)
    assert checkpoints.steps() == [10, 20]
    items, extra = checkpoints.restore_latest({"state": template()})
    assert_identical(items["state"], make_state(20))
    assert extra == {"wall_time_s": 20 / 3}
    checkpoints.save(25, {"state": make_state(25)}, {})
    checkpoints.wait()
    assert checkpoints.steps() == [20, 25]
    checkpoints.close()
    assert_identical(restore(folder)[0], make_state(25))


def test_an_empty_directory_restores_nothing(tmp_path):
    assert restore(tmp_path / "new") is None


def test_a_half_written_checkpoint_is_not_one(folder):
    shutil.copytree(folder / "20", folder / "30.orbax-checkpoint-tmp")
    assert_identical(restore(folder)[0], make_state(20))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_gives_way_to_the_one_before(folder, caplog, damage):
    damage(folder / "20")
    damaged = contents(folder / "20")
    with caplog.at_level(logging.WARNING, logger="lrd_jax"):
        state, extra = restore(folder)
    assert_identical(state, make_state(10))
    assert extra == {"wall_time_s": 10 / 3}
    (message,) = [r.message for r in caplog.records if r.name.startswith("lrd_jax")]
    assert "step 20 is damaged" in message and "the one before, of step 10, is used" in message
    assert not (folder / "20").exists()
    assert contents(folder.with_name("checkpoints_damaged") / "20") == damaged


@pytest.mark.slow
def test_what_was_moved_aside_is_never_overwritten(folder):
    for number in range(2):
        checkpoints = Checkpoints(folder)
        if number:
            checkpoints.save(20, {"state": make_state(20)}, {})
        checkpoints.close()
        flip_a_byte(folder / "20")
        assert_identical(restore(folder)[0], make_state(10))
    aside = folder.with_name("checkpoints_damaged")
    assert sorted(path.name for path in aside.iterdir()) == ["20", "20-1"]


@pytest.mark.parametrize("read_only", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_if_all_are_damaged_nothing_starts_over_and_nothing_moves(folder, read_only):
    flip_a_byte(folder / "10")
    lose_the_state(folder / "20")
    before = contents(folder)
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole .step 20: .*; step 10: "):
        restore(folder, read_only)
    assert contents(folder) == before
    assert not folder.with_name("checkpoints_damaged").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def remove(path):
    path.unlink()


@pytest.mark.parametrize(
    "harm", [flip, *(pytest.param(h, marks=pytest.mark.slow) for h in (cut, remove))]
)
def test_whatever_file_is_harmed_a_true_state_comes_back(folder, tmp_path, harm):
    files = [path.relative_to(folder / "20") for path in (folder / "20").rglob("*")]
    files = [name for name in files if (folder / "20" / name).is_file()]
    assert len(files) >= 8
    fallen_back = set()
    for number, name in enumerate(files):
        copy = tmp_path / str(number) / "checkpoints"
        shutil.copytree(folder, copy)
        if (copy / "20" / name).stat().st_size == 0 and harm is not remove:
            continue
        harm(copy / "20" / name)
        state, extra = restore(copy)
        step = int(state["step"])
        assert_identical(state, make_state(step))  # never a wrong number
        assert extra == {"wall_time_s": step / 3}
        if step == 10:
            fallen_back.add(str(name))
            assert (copy.with_name("checkpoints_damaged") / "20").is_dir()
    # What the numbers depend on was told.
    assert fallen_back


def test_a_step_that_is_there_is_replaced(folder):
    checkpoints = Checkpoints(folder)
    checkpoints.save(20, {"state": make_state(21)}, {"wall_time_s": 1})
    checkpoints.wait()
    assert checkpoints.steps() == [10, 20]
    checkpoints.close()
    state, extra = restore(folder)
    assert_identical(state, make_state(21))
    assert extra == {"wall_time_s": 1}


# ---- Saving a step again -------------------------------------------------------------------------


def save_again(folder, step, copies):
    """Replaces a step; keeps copies of what a kill would leave between each two of its parts."""
    checkpoints = Checkpoints(folder)
    with pytest.MonkeyPatch.context() as patch:

        def copy_before(owner, name, instant):
            original = getattr(owner, name)

            def function(*args, **kwargs):
                shutil.copytree(folder.parent, copies / instant, dirs_exist_ok=True)
                return original(*args, **kwargs)

            patch.setattr(owner, name, function)

        copy_before(checkpoints, "_replace", "before it is set aside")
        copy_before(checkpoints._manager, "reload", "set aside")
        copy_before(module, "_remove", "written")
        checkpoints.save(step, {"state": make_state(step + 1)}, {"wall_time_s": 1})
        checkpoints.close()
    half = shutil.copytree(copies / "written", copies / "half written") / folder.name
    (half / str(step)).rename(half / f"{step}.orbax-checkpoint-tmp")
    return {path.name: path / folder.name for path in copies.iterdir()}


@pytest.mark.parametrize(
    ("read_only", "only"),
    [
        (False, False),
        *(
            pytest.param(*p, marks=pytest.mark.slow)
            for p in ((False, True), (True, False), (True, True))
        ),
    ],
)
def test_a_kill_while_a_step_is_replaced_leaves_the_old_or_the_new(
    folder, tmp_path, only, read_only, caplog
):
    if only:
        shutil.rmtree(folder / "10")
    (tmp_path / "copies").mkdir()
    (tmp_path / "run").mkdir()
    folder = folder.rename(tmp_path / "run" / "checkpoints")
    left = save_again(folder, 20, tmp_path / "copies")
    assert len(left) == 4
    with caplog.at_level(logging.WARNING, logger="lrd_jax"):
        for instant, copy in left.items():
            before = contents(copy.parent)
            state, _ = restore(copy, read_only)
            assert_identical(state, make_state(21 if instant == "written" else 20))
            names = {path.name for path in copy.parent.iterdir()}
            if read_only:
                assert contents(copy.parent) == before
            else:
                assert names == {"checkpoints"}
                assert sorted(p.name for p in copy.iterdir()) == (["20"] if only else ["10", "20"])
    assert not [r for r in caplog.records if r.name.startswith("lrd_jax")]
    assert {path.name for path in folder.parent.iterdir()} == {"checkpoints"}
    assert_identical(restore(folder)[0], make_state(21))


def test_what_was_replaced_stands_in_for_a_damaged_successor(folder, tmp_path, caplog):
    (tmp_path / "copies").mkdir()
    (tmp_path / "run").mkdir()
    folder = folder.rename(tmp_path / "run" / "checkpoints")
    copy = save_again(folder, 20, tmp_path / "copies")["written"]
    flip_a_byte(copy / "20")
    with caplog.at_level(logging.WARNING, logger="lrd_jax"):
        assert_identical(restore(copy)[0], make_state(20))
    (message,) = [r.message for r in caplog.records if r.name.startswith("lrd_jax")]
    assert "step 20 is damaged" in message and "the one that it replaced is used" in message
    names = {path.name for path in copy.parent.iterdir()}
    assert names == {"checkpoints", "checkpoints_damaged"}
    assert_identical(restore(copy)[0], make_state(20))


# ---- Items ---------------------------------------------------------------------------------------


def test_an_item_is_restored_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    items = {"state": make_state(1), "best": {"params": jnp.arange(3.0)}}
    checkpoints.save(1, items, {"kept": 1})
    checkpoints.close()
    for path in (tmp_path / "checkpoints" / "1" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"garbage")
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    wanted = {"best": {"params": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=sharding)}}
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    found, extra = checkpoints.restore_latest(wanted)
    checkpoints.close()
    assert extra == {"kept": 1} and list(found) == ["best"]
    assert_identical(found["best"], items["best"])
    assert found["best"]["params"].devices() == {jax.devices()[1]}


def test_a_later_format_is_refused(folder):
    path = folder / "20" / "extra" / "metadata"
    extra = json.loads(path.read_text())
    assert extra["format"] == 2
    path.write_text(json.dumps(extra | {"format": 3}))
    with pytest.raises(UserError, match=r"have format 3, .* this one reads up to 2"):
        restore(folder)


@pytest.mark.parametrize("damage", DAMAGES)
def test_read_only_touches_nothing(folder, damage):
    damage(folder / "20")
    before = contents(folder)
    assert_identical(restore(folder, read_only=True)[0], make_state(10))
    assert contents(folder) == before
    assert not folder.with_name("checkpoints_damaged").exists()


@pytest.mark.parametrize(
    "change", ["shape", *(pytest.param(c, marks=pytest.mark.slow) for c in ("dtype", "name"))]
)
def test_another_model_is_no_damage(folder, change):
    wanted = template()
    if change == "name":
        wanted["new"] = wanted["step"]
    else:
        kind = {"shape": ((64, 100), jnp.float32), "dtype": ((64, 128), jnp.bfloat16)}[change]
        sharding = wanted["step"].sharding
        wanted["params"]["kernel"] = jax.ShapeDtypeStruct(*kind, sharding=sharding)
    before = contents(folder)
    checkpoints = Checkpoints(folder)
    with pytest.raises(UserError, match=r"do not fit: .*(kernel|new)"):
        checkpoints.restore_latest({"state": wanted})
    checkpoints.close()
    assert contents(folder) == before


def test_the_next_step_may_reuse_the_buffers_of_a_state_being_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    advance = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), donate_argnums=0)
    state = {"step": jnp.int32(1), "params": jnp.zeros((1000, 1000)), "more": jnp.zeros(1000)}
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    checkpoints.save(1, {"state": state}, {})
    for _ in range(20):
        state = advance(state)
    jax.block_until_ready(state)
    items, _ = checkpoints.restore_latest({"state": shapes})
    checkpoints.close()
    assert {leaf.max().item() for leaf in jax.tree.leaves(items["state"]["params"])} == {0.0}
    assert items["state"]["step"] == 1


def test_a_failing_disk_is_one_line(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)

    def refuse(*_, **__):
        raise OSError(28, "No space left on device\nand more lines")

    monkeypatch.setattr(checkpoints._manager, "save", refuse)
    with pytest.raises(RunError, match="No space left on device") as caught:
        checkpoints.save(1, {"state": make_state(1)}, {})
    assert "\n" not in str(caught.value)
    checkpoints.close()


def test_a_full_disk_is_noticed_before_anything_is_written(folder, monkeypatch):
    before = contents(folder)
    checkpoints = Checkpoints(folder)
    state = make_state(30)
    free = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) - 1
    usage = shutil.disk_usage(folder)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RunError, match=f"bytes wanted, {free:,} bytes free"):
        checkpoints.save(30, {"state": state}, {})
    checkpoints.close()
    assert contents(folder) == before
