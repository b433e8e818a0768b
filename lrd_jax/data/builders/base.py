"""What the builders share: names, file format and the hand-over of source files."""

import abc
import functools
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from lrd_jax.data.builders.sources import SourceFile
from lrd_jax.errors import UserError

Examples = tuple[np.ndarray, np.ndarray]
"""Images (examples, height, width, channels) uint8 and labels (examples,)."""


class Builder(tfds.core.GeneratorBasedBuilder, abc.ABC, skip_registration=True):
    """A data set that is prepared and read without TensorFlow.

    Subclasses are called `Lrd...`, hence `lrd_mnist` in the registry and on disk. A user may well
    have a stock `mnist` in the same `data_dir`, in another file format and with encoded images: a
    name of our own is the one thing that keeps both the registry of TFDS and the folders apart,
    whatever version numbers either side chooses.

    Examples are stored in the order of the source, not shuffled, so that "the last 10 000 training
    images" means what the papers mean.
    """

    VERSION = tfds.core.Version("1.0.0")

    SOURCES: ClassVar[tuple[SourceFile, ...]] = ()
    """Files to download; empty where the data comes with a dependency or is drawn."""

    SPLITS: ClassVar[tuple[str, ...]] = ("test",)
    """What every prepared one has; the training examples of a task are drawn, not stored."""

    RECORDS: ClassVar[str] = ""
    """What a stored record is, for people; empty where it is an example."""

    @classmethod
    def check_variant(cls, name: str) -> None:
        """Raises UserError unless `NAME/<name>` exists; "" where a data set has no variants."""
        if name:
            raise UserError(f"{cls.name.removeprefix('lrd_')} has no variants: leave out /{name}")


class NamedVariants:
    """For a builder whose variants have names and nothing else."""

    @classmethod
    @functools.cache  # TFDS wants the same object every time
    def get_builder_config(cls, name: str, version: Any = None) -> tfds.core.BuilderConfig:
        """Returns the TFDS config of a variant; it has no other content than its name."""
        del version
        return tfds.core.BuilderConfig(name=name)


class ImageBuilder(Builder):
    """A data set of labelled uint8 images.

    The stock builders of the same data sets read their sources and encode `Image` features with
    TensorFlow; here the source files are parsed with NumPy and an image is a plain uint8 tensor.

    A subclass sets the attributes below and reads its sources in `read`.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = "The folder holds the files named in SOURCES."

    SPLITS = ("train", "test")

    IMAGE_SHAPE: ClassVar[tuple[int, int, int]]
    """Height, width, channels."""
    PIXEL_MAX: ClassVar[int] = 255
    """Largest pixel value."""
    MEAN: ClassVar[tuple[float, ...]] = ()
    """Of each channel over the training images, scaled to 0 .. 1; empty where none is published."""
    STD: ClassVar[tuple[float, ...]] = ()
    """Standard deviation, likewise."""
    CLASS_NAMES: ClassVar[tuple[str, ...]]
    DESCRIPTION: ClassVar[str]
    HOMEPAGE: ClassVar[str]

    @classmethod
    @abc.abstractmethod
    def read(cls, source_dir: Path | None) -> dict[str, Examples]:
        """Reads and checks the source files.

        Args:
            source_dir: holds the files of `SOURCES`; None where there are none.

        Returns:
            The examples of "train", "test" and, where the data set has one, "validation".

        Raises:
            UserError: a file is missing, cut off, swapped or corrupt.
        """

    def _info(self) -> tfds.core.DatasetInfo:
        """See TFDS: `image` `(height, width, channels)` uint8, and `label`."""
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Tensor(shape=self.IMAGE_SHAPE, dtype=np.uint8),
                "label": tfds.features.ClassLabel(names=list(self.CLASS_NAMES)),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=features,
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        source_dir = Path(dl_manager.manual_dir) if self.SOURCES else None
        # Everything is read and checked before the first example is written.
        return {
            split: self._generate_examples(*examples)
            for split, examples in self.read(source_dir).items()
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Any:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield number, {"image": image, "label": int(label)}
