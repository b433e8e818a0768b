"""A page about runs that needs no network: `python -m lrd_jax.report RUN [RUN ...] --out=DIR`."""
