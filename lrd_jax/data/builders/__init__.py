"""TFDS builders that work without TensorFlow, by the name a user gives (`data.name`)."""

from lrd_jax.data.builders.base import Builder, ImageBuilder
from lrd_jax.data.builders.cifar import LrdCifar10
from lrd_jax.data.builders.digits import LrdDigits
from lrd_jax.data.builders.mnist import LrdFashionMnist, LrdMnist
from lrd_jax.data.builders.synthetic import LrdAdding, LrdCopy
from lrd_jax.data.builders.wikitext import LrdWikitext2, LrdWikitext103

IMAGES: dict[str, type[ImageBuilder]] = {
    "cifar10": LrdCifar10,
    "digits": LrdDigits,
    "fashion_mnist": LrdFashionMnist,
    "mnist": LrdMnist,
}
BUILDERS: dict[str, type[Builder]] = {
    "adding": LrdAdding,
    "copy": LrdCopy,
    "wikitext103": LrdWikitext103,
    "wikitext2": LrdWikitext2,
    **IMAGES,
}

__all__ = ["BUILDERS", "IMAGES", "Builder", "ImageBuilder"]
