"""The array type that annotations name."""

import jax

Array = jax.Array
