"""What `reproduce.py` runs: variants of a config that are compared with each other."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Variants of one config that are compared with each other.

    Attributes:
      title: for table and figure.
      config: value of `--config`.
      variants: name in the table -> overrides, `key=value`.
      metric: what is plotted; empty: what chooses the best step.
      sample: overrides of the evaluation that writes a sample of text; none where empty.
    """

    title: str
    config: str
    variants: dict[str, tuple[str, ...]]
    metric: str = ""
    sample: tuple[str, ...] = ()


_SAMPLE = ("eval.sample_tokens=300", "eval.temperature=0.8")

EXPERIMENTS = {
    "digits_urlstm": Experiment(
        "Permuted digits (64 steps), 128 units",
        "configs/urlstm_pdigits.py",
        {"UR-LSTM": ()},
    ),
    "digits_bfloat16": Experiment(
        "Permuted digits, precision of the products in time",
        "configs/urlstm_pdigits.py",
        {"float32": (), "bfloat16": ("model.compute_dtype=bfloat16",)},
    ),
    "mnist_rows_lstm": Experiment(
        "Row-wise MNIST (28 steps), 128 units",
        "configs/lstm_mnist_rows.py",
        {"LSTM (untied)": ()},
    ),
    "auxiliary_short": Experiment(
        "Permuted MNIST, four pixels a step (196 steps), 128 units",
        "configs/auxiliary_short.py:lstm",
        {
            "LSTM (untied)": (),
            "LSTM, truncated to 75": ("truncate.steps=75",),
            "r-LSTM, truncated to 75": ("aux.kind=reconstruct", "truncate.steps=75"),
            "p-LSTM, truncated to 75": ("aux.kind=predict", "truncate.steps=75"),
            "r-LSTM, labels train the head alone": (
                "aux.kind=reconstruct",
                "truncate.steps=75",
                "truncate.supervised=stop",
            ),
        },
    ),
    "pmnist_gates": Experiment(
        "Permuted MNIST (784 steps), 128 units",
        "configs/urlstm_pmnist.py",
        {"LSTM (untied)": ("model.cell=lstm",), "UR-LSTM": ("model.cell=urlstm",)},
    ),
    "copying_hdetach": Experiment(
        "Copying, preset hdetach, delay 100, LSTM (untied) of 128 units",
        "configs/hdetach_copying.py:H1",
        {
            "p_block 0": (),
            "p_block 0.5": ("detach.p_block=0.5", "detach.off_last_epochs=39"),
        },
    ),
    "copying_gates": Experiment(
        "Copying, preset gu, lag 480 (500 steps), 256 units",
        "configs/gating_synthetic.py:G1-UR",
        {"`--` (tied)": ("model.gates=--",), "UR-LSTM": ()},
    ),
    "adding_gates": Experiment(
        "Adding, 500 steps, 256 units",
        "configs/gating_synthetic.py:G2-UR",
        {
            "`--` (tied)": ("data.length=500", "model.gates=--"),
            "UR-LSTM": ("data.length=500",),
        },
    ),
    "caption_shapes": Experiment(  # greedy; see caption_controls.py for beams
        "Captions of generated pictures, 128 units",
        "configs/caption_shapes.py:SAT",
        {"Show, Attend & Tell": (), "Show & Tell": ("model.caption=show_tell",)},
    ),
    "caption_flickr8k_sat": Experiment(
        "Flickr8k, 753 training pictures, Show, Attend & Tell of 128 units",
        "configs/caption_flickr8k.py:SAT",
        {"p_block 0": ("detach.p_block=0.0",), "p_block 0.4": ()},
    ),
    "caption_flickr8k_st": Experiment(
        "Flickr8k, 753 training pictures, Show & Tell of 128 units",
        "configs/caption_flickr8k.py:ST",
        {"p_block 0": ("detach.p_block=0.0",), "p_block 0.25": ()},
    ),
    "char_shakespeare": Experiment(
        "Characters of tinyshakespeare, 2 layers of 256 units",
        "configs/char_shakespeare.py",
        {"LSTM": ()},
        sample=_SAMPLE,
    ),
    **{
        row: Experiment(f"{name} (UCR/UEA archive)", f"configs/your_sequences.py:{row}", {cell: ()})
        for row, name, cell in (
            ("japanese_vowels", "JapaneseVowels", "LSTM, both directions"),
            ("basic_motions", "BasicMotions", "LSTM, both directions"),
            ("arrow_head", "ArrowHead", "UR-LSTM, both directions"),
            ("gun_point", "GunPoint", "UR-LSTM, both directions"),
            ("italy_power_demand", "ItalyPowerDemand", "LSTM, both directions"),
        )
    },
    "wikitext2_word": Experiment(
        "Words of WikiText-2, 256 units, tied embeddings",
        "configs/wikitext2.py",
        {"LSTM": ()},
        sample=_SAMPLE,
    ),
}
