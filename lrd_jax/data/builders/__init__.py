"""TFDS builders that work without TensorFlow; `lrd_jax.data.registry` knows them by name."""

from lrd_jax.data.builders.base import Builder, ImageBuilder

__all__ = ["Builder", "ImageBuilder"]
