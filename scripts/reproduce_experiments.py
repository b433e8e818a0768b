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
      rates: learning rates that each variant is tried with before, by a seed that is not among
        those compared, for a quarter of its steps; the best on validation data is taken.
      context: tokens of the windows that a language model is scored in too, its state starting anew
        with each; 0: none.
      lengths: of the sequences that the trained models are tested at; none where empty.
    """

    title: str
    config: str
    variants: dict[str, tuple[str, ...]]
    metric: str = ""
    sample: tuple[str, ...] = ()
    context: int = 0
    rates: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()


_SAMPLE = ("eval.sample_tokens=300", "eval.temperature=0.8")

_TRACKING_CELLS = {
    "RNN": "rnn",
    "LSTM": "lstm",
    "GRU": "gru",
    "UR-LSTM": "urlstm",
    "minGRU": "mingru",
    "LRU": "lru",
}


def _tracking(problem: str, title: str) -> Experiment:
    return Experiment(
        f"State tracking, {title}: trained at 32 steps, 64 units",
        f"configs/state_tracking.py:{problem}",
        {name: (f"model.cell={cell}",) for name, cell in _TRACKING_CELLS.items()},
        rates=(1e-3, 3e-3, 1e-2),
        lengths=(32, 64, 128, 256, 512, 1024),
    )


EXPERIMENTS = {
    "tracking_parity": _tracking("parity", "parity"),
    "tracking_cycle5": _tracking("cycle5", "ring of five"),
    "tracking_S3": _tracking("S3", "S3"),
    "tracking_A5": _tracking("A5", "A5"),
    "tracking_S5": _tracking("S5", "S5"),
    "digits_urlstm": Experiment(
        "Permuted digits (64 steps), 128 units",
        "configs/urlstm_pdigits.py",
        {"UR-LSTM": ()},
    ),
    "digits_memories": Experiment(
        "Permuted digits (64 steps), 64 units: a gated cell, a linear memory, and both",
        "configs/urlstm_pdigits.py",
        {
            name: (f"model.cell={cell}", "model.hidden_size=64")
            for name, cell in (
                ("LSTM", "lstm"),
                ("UR-LSTM", "urlstm"),
                ("HiPPO-LegS", "legs"),
                ("HiPPO-LegS with a UR gate", "gated_legs"),
            )
        },
        rates=(1e-3, 3e-3, 1e-2),
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
    "lesson_rows": Experiment(
        "The lesson: digits row by row (8 steps), 64 units",
        "configs/lesson.py:rows",
        {"LSTM (untied)": ()},
    ),
    "lesson_digits": Experiment(
        "The lesson: permuted digits (64 steps), 64 units",
        "configs/lesson.py:digits-lstm",
        {"LSTM (untied)": (), "UR-LSTM": ("model.cell=urlstm",)},
    ),
    "lesson_copying": Experiment(
        "The lesson: copying over 60 steps, 64 units",
        "configs/lesson.py:copy-lstm",
        {
            "LSTM (untied)": (),
            "LSTM, h-detach 0.25": ("detach.p_block=0.25",),
            "UR-LSTM": ("model.cell=urlstm",),
        },
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
    "char_shakespeare_long": Experiment(  # two million parameters; nanoGPT: 1.4697 at best
        "Characters of tinyshakespeare, 2 layers of 384 units, 15 epochs",
        "configs/char_shakespeare.py",
        {
            "LSTM": (
                "model.hidden_size=384",
                "model.dropout=0.3",
                "model.output_dropout=0.3",
                "optim.ema_decay=0.998",
                "optim.learning_rate=3e-3",
                "train.num_epochs=15.0",
            )
        },
        sample=_SAMPLE,
        context=256,  # as nanoGPT's
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
