"""The builder of a person's own sequences, for those that do not fit into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from lrd_jax.data.builders.base import Builder, NamedVariants
from lrd_jax.data.sequence import Layout, Sequences
from lrd_jax.data.sequence_fit import Statistics, label_text

Reader = Callable[[], Iterator[Sequences]]


class SequenceBuilder(NamedVariants, Builder):
    """Stores sequences as they stand in the files: nothing is fitted yet, a missing value is NaN.

    Its metadata holds the statistics of the training sequences, and the lengths of all.
    """

    name = "lrd_sequences"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The folder holds the files of the splits."

    def __init__(
        self,
        readers: dict[str, Reader],
        labels: list[str],
        example: Sequences,
        layout: Layout,
        **options: Any,
    ) -> None:
        """Keeps what is to be written.

        Args:
            readers: split -> what begins to read it, some sequences at a time.
            labels: of all sequences; empty where targets are numbers.
            example: any of the sequences.
            layout: how the files are read, for those of a later prediction.
            **options: of TFDS.
        """
        self._readers, self._labels, self._example = readers, labels, example
        self._layout = layout
        self._numbers = {label: number for number, label in enumerate(labels)}
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        """See TFDS: inputs `(time, channels)` float32, and targets where there are some."""
        example = self._example
        features: dict[str, Any] = {
            "id": tfds.features.Text(),
            "inputs": tfds.features.Tensor(
                shape=(None, len(example.channels)), dtype=np.float32, encoding="bytes"
            ),
        }
        if example.targets is not None:
            steps = (None,) if example.per_step else ()
            features["target"] = tfds.features.Tensor(
                shape=(*steps, len(example.target_names)), dtype=np.float64, encoding="bytes"
            )
        return tfds.core.DatasetInfo(
            builder=self,
            description="Sequences of a person's own.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                labels=self._labels, layout=dataclasses.asdict(self._layout)
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self._readers}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """See TFDS; keeps statistics and lengths in the metadata when a split is through."""
        found, number = Statistics(), 0
        for some in self._readers[split]():
            found.add(some)
            for place in range(len(some)):
                record: dict[str, Any] = {"id": some.ids[place], "inputs": some.inputs[place]}
                if some.targets is not None:
                    record["target"] = self._stored(some.targets[place])
                yield number, record
                number += 1
        kept = {"lengths": found.lengths, "file": str(some.places[0].file)}
        if split == "train":
            kept["statistics"] = found.to_json()
        metadata: Any = self.info.metadata
        metadata[split] = kept

    def _stored(self, target: np.ndarray) -> np.ndarray:
        if not self._labels:
            return target.astype(np.float64)
        numbers = [self._numbers[label_text(label)] for label in target.ravel().tolist()]
        return np.array(numbers, np.float64).reshape(target.shape)


def folder_of(data_dir: Path, name: str) -> Path:
    """Returns where the sequences of a name are prepared."""
    return data_dir / SequenceBuilder.name / name / str(SequenceBuilder.VERSION)
