"""Looks into a network: where its gradients go, what its gates keep, what it remembers.

`python -m lrd_jax.probe` draws; each file here has its numbers as functions, for Python.
"""
