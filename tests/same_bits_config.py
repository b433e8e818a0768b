"""Settings of `tests/same_bits.py`, each written out: no experiment or default decides here.

A key that a setting depends on is named even where it is the default, so that a changed experiment
or default changes no digest.
"""

from configs import base

COMMON = {
    "seed": 0,
    "num_seeds": 1,
    "model.kernel_init": "uniform_rsqrt",
    "model.num_layers": 1,
    "model.backend": "auto",
    "optim.name": "adam",
    "optim.learning_rate": 3e-3,
    "optim.clip_norm": 1.0,
    "optim.schedule": "constant",
    "train.num_steps": 50,
    "train.eval_every_steps": 50,
    "train.log_every_steps": 10,
}
DIGITS = {
    "data.name": "digits",
    "data.permutation": "92916",
    "data.order": "pixel",
    "data.pixels_per_step": 1,
    "data.batch_size": 50,
    "model.hidden_size": 128,
    "model.head_hidden": (256,),
}
SETTINGS = {
    "digits": COMMON
    | DIGITS
    | {
        "model.cell": "urlstm",
        "model.tied_input": True,
        "model.forget_bias": 1.0,
        "model.refine_bias": "neg_forget",
        "model.share_refine_bias": True,
        "model.ugi_margin": 0.0,
        "optim.schedule": "cosine",
        "optim.warmup_steps": 0,
        "devices.cpu_devices": 2,
    },
    "copying": COMMON
    | {
        "num_seeds": 2,
        "data.name": "copy",
        "data.preset": "gu",
        "data.delay": 60,
        "data.encoding": "preset",
        "data.batch_size": 10,
        "data.steps_per_epoch": 1000,
        "model.cell": "lstm",
        "model.forget_bias": 0.0,
        "model.bias_init": "two_uniform",
        "model.hidden_size": 64,
        "model.head_hidden": (),
        "model.num_layers": 2,
        "model.dropout": 0.1,
        "detach.p_block": 0.5,
        "detach.c_block": 0.1,
        "detach.scope": "example",
        "detach.stack_mask": "per_layer",
        "detach.off_last_epochs": 0,
        "truncate.steps": 40,
        "truncate.supervised": "same",
        "devices.cpu_devices": 1,
    },
    "r-lstm": COMMON
    | DIGITS
    | {
        "model.cell": "lstm",
        "model.forget_bias": 1.0,
        "model.bias_init": "zeros",
        "model.hidden_size": 32,
        "model.head_dropconnect": 0.5,
        "detach.p_block": 0.25,
        "detach.scope": "batch",
        "truncate.steps": 20,
        "truncate.supervised": "same",
        "aux.kind": "reconstruct",
        "aux.loss": "mse",
        "aux.weight": 1.0,
        "aux.segment_length": 16,
        "aux.gap": -1,
        "aux.n_anchors": 2,
        "aux.scope": "example",
        "aux.decoder_layers": 2,
        "aux.decoder_width": 0,
        "aux.head_hidden": (32, 32),
        "aux.decoder_feed": "scheduled",
        "aux.pretrain_epochs": 0.5,
        "optim.pretrain_decay": 0.5,
        "devices.cpu_devices": 1,
    },
    "language": COMMON
    | {
        "data.name": "text",
        "data.unit": "char",
        "data.length": 24,
        "data.batch_size": 8,
        "model.cell": "gru",
        "model.hidden_size": 48,
        "model.embedding_size": 32,
        "model.tie_embeddings": True,
        "model.embedding_dropout": 0.1,
        "model.output_dropout": 0.1,
        "model.learn_initial": True,
        "devices.cpu_devices": 2,
    },
}


def get_config(arg=""):
    """Returns the config of a setting."""
    config = base.get_config()
    config.update_from_flattened_dict(SETTINGS[arg])
    return config
