import jax
import jax.numpy as jnp

from lrd_jax.runtime import compile_time


def test_compiling_is_counted_once_and_running_is_not():
    seconds = compile_time.since_now()
    step = jax.jit(lambda x: jnp.sin(jax.jit(jnp.cos)(x)).sum())
    step(jnp.ones(3)).block_until_ready()
    compiled = seconds()
    assert compiled > 0
    for _ in range(3):
        step(jnp.ones(3)).block_until_ready()
    assert seconds() == compiled and compile_time.since_now()() == 0


def test_spans_within_another_count_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(compile_time.time, "monotonic", lambda: now[0])
    spans = compile_time._Spans()
    for end, duration in ((2.0, 1.0), (4.0, 1.0), (5.0, 5.0), (9.0, 2.0)):
        now[0] = end  # tracing of two functions within that of a third, then XLA
        spans.add("/jax/core/compile/x", duration)
    spans.add("/jax/other", 100.0)
    assert spans.total == 7.0
