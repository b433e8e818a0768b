"""Compiled programs that are kept: used again, with the same bits; a folder that cannot be used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.runtime import compilation

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def options():
    """Gives JAX's options back."""
    from jax.experimental.compilation_cache import compilation_cache

    before = {name: getattr(jax.config, name) for name in OPTIONS}
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_what_was_compiled_is_found_again_and_computes_the_same(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)

    def compute():
        jax.clear_caches()
        return np.asarray(jax.jit(lambda x: jnp.tanh(x @ x.T).sum(0) / 3)(x))

    jax.config.update("jax_compilation_cache_dir", None)
    expected = compute()
    assert compilation.keep_in(str(tmp_path / "a" / "cache")) == tmp_path / "a" / "cache"
    first = compute()
    kept = {path.name for path in (tmp_path / "a" / "cache").glob("*-cache")}
    assert kept
    second = compute()
    assert {path.name for path in (tmp_path / "a" / "cache").glob("*-cache")} == kept
    assert first.tobytes() == expected.tobytes() == second.tobytes()
    for path in (tmp_path / "a" / "cache").glob("*-cache"):
        path.write_bytes(path.read_bytes()[:20])
    with pytest.warns(UserWarning, match="cache"):  # of JAX; the program is compiled anew
        assert compute().tobytes() == expected.tobytes()


@pytest.mark.parametrize("place", ["file", "file/cache", "~nobody.here/cache"])
def test_a_folder_that_cannot_be_used_is_told(tmp_path, caplog, place):
    (tmp_path / "file").touch()
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    assert compilation.keep_in(place if place[0] == "~" else str(tmp_path / place)) is None
    (record,) = caplog.records
    assert record.getMessage().startswith("devices.compilation_cache=")
    assert {name: getattr(jax.config, name) for name in OPTIONS} == before
