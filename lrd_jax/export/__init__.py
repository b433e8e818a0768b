"""A trained model taken elsewhere: `python -m lrd_jax.export`."""
