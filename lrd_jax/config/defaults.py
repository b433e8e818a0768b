"""Every key, with its unit and meaning. An experiment imports this and changes what differs.

No key holds None or mixes types: 0 means off or derived, mixed choices are strings.
"""

from typing import Any

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults; the experiments in this folder override some of them."""
    c: Any = ml_collections.ConfigDict()
    c.seed = 0  # initialisation, data order and every random draw of the (first) run
    c.num_seeds = 1  # seeds seed .. seed+num_seeds-1 train in one program

    d: Any = ml_collections.ConfigDict()
    c.data = d
    # digits | mnist | fashion_mnist | cifar10 | copy | adding | wikitext2 | wikitext103 | text |
    # recall
    d.name = "digits"
    d.data_dir = "~/tensorflow_datasets"  # where prepared data sets live
    d.batch_size = 64  # examples (of text: parallel streams) per step over all devices
    d.permutation = "none"  # none | 92916 | bitreverse | seed:<n>; the same for every run seed
    d.order = "pixel"  # pixel: one pixel a step; row: one image row a step
    d.pixels_per_step = 1  # pixels grouped into one step, after the permutation
    d.valid_split = "last:10000"  # last:<n> | first:<n> training examples held out (digits: fixed)
    d.normalise = False  # cifar10: also subtract each channel's mean and divide by its deviation
    d.preset = ""  # copy, to be named: hdetach | gu | marker; published definitions differ
    d.delay = 0  # copy: blank steps between the symbols and the signal to recall them
    d.length = 0  # adding, recall: time steps; text: tokens of a window
    d.pairs = 0  # recall: pairs of a key and a value, each asked for once
    d.vocabulary = 8192  # recall: symbols, half of them keys, half values
    d.query_power = 0.01  # recall: a place's probability falls as its distance^(this - 1)
    d.text_dir = ""  # text: folder of .txt files, or one file; see lrd_jax/data/text.py
    d.unit = "char"  # text: char | word
    d.encoding = "preset"  # copy: preset (what the preset's paper used) | scalar | onehot
    d.steps_per_epoch = 1000  # copy, adding, recall: training batches that are called one epoch

    m: Any = ml_collections.ConfigDict()
    c.model = m
    m.cell = "lstm"  # rnn | lstm | gated_lstm | urlstm | gru | gated_gru | onlstm
    m.gates = "UR"  # gated cells: -- | C- | O- | U- | -R | OM | UM | OR | UR
    m.hidden_size = 128  # units per layer
    m.num_layers = 1
    m.tied_input = True  # gated_lstm: input gate 1 - g
    m.forget_bias = 1.0  # lstm, gated_lstm: initial bias of plain sigmoid forget gates
    m.bias_init = "zeros"  # lstm: zeros; two_uniform: sum of two U(-1/sqrt d, 1/sqrt d) (h-detach)
    m.activation = "tanh"  # rnn: tanh | relu
    m.recurrent_init = "kernel_init"  # rnn: kernel_init | identity (identity with relu: IRNN)
    m.refine_bias = (
        "neg_forget"  # neg_forget | zero: shift of the refine gate (UR; GRU always zero)
    )
    m.share_refine_bias = True  # one parameter for both biases
    m.ugi_margin = 0.0  # margin of the uniform gate initialisation; 0 = 1/hidden_size
    m.chrono_t_max = 0  # longest time scale of the chrono bias, steps; 0 = the sequence length
    m.chunk_size = 1  # units that share one master gate (OM, UM, onlstm)
    m.reset_gate = "--"  # gated_gru: -- | U- | -R | UR
    m.kernel_init = "uniform_rsqrt"  # uniform_rsqrt | xavier | trunc_normal
    m.head_hidden = (256,)  # widths of the ReLU layers between last state and classes
    m.head_dropconnect = 0.0  # rate of DropConnect on the second matrix of each head
    m.bidirectional = False  # adds to every layer one that reads the sequence backwards
    m.dropout = 0.0  # rate between layers
    m.learn_initial = False  # the initial state is a parameter
    # Width before the first cell. language: of a token's vector, 0 = hidden_size; else: of a linear
    # layer on each step's values (or a table of them, see aux.embedding), 0 = none
    m.embedding_size = 0
    m.tie_embeddings = False  # language: one parameter embeds tokens and reads them out, no bias
    m.embedding_dropout = 0.0  # language: rate on the embedded tokens
    m.output_dropout = 0.0  # language: rate on the output of the last layer
    m.compute_dtype = "float32"  # float32 | bfloat16: operands of the matrix products in time
    m.backend = "auto"  # auto | scan | fused: how time is unrolled
    m.recompute = False  # fused: less memory, one more product a step in the backward pass

    h: Any = ml_collections.ConfigDict()
    c.detach = h
    h.p_block = 0.0  # probability, per step, of blocking the gradient through h (h-detach)
    h.c_block = 0.0  # the same through c
    h.scope = "batch"  # batch: one draw for the mini-batch | example: one for each example
    h.stack_mask = "shared"  # shared: one draw for all layers | per_layer
    h.off_last_epochs = 0  # blocking is off in the last N epochs

    u: Any = ml_collections.ConfigDict()
    c.truncate = u
    u.steps = 0  # gradients reach back this many time steps; 0 = all the way
    u.supervised = "same"  # of the labels: same | stop: only the head learns from them | a number

    x: Any = ml_collections.ConfigDict()
    c.aux = x
    x.kind = "none"  # none | reconstruct (r-LSTM) | predict (p-LSTM) | both
    x.loss = "auto"  # mse | ce | auto: ce for tokens and tables of pixels, else mse
    x.weight = 1.0  # of the auxiliary loss beside the task's
    x.segment_length = 600  # steps of a segment; the decoder says all but the first
    x.gap = 0  # steps between anchor and segment; -1 = random
    x.n_anchors = 1  # drawn anew for every batch
    x.scope = "batch"  # batch: one draw for the mini-batch | example: one for each example
    x.decoder_layers = 2
    x.decoder_width = 0  # units; 0 = hidden_size, else a linear layer fits the state
    x.head_hidden = (256, 256)  # widths of the ReLU layers between decoder and prediction
    x.decoder_feed = (
        "teacher"  # teacher | none: zeros after the first step | scheduled: own outputs
    )
    x.reverse = False  # reconstruct: decode the segment backwards
    x.embedding = (
        "none"  # none: linear | full: one table for network and decoder | decoder: its own
    )
    x.pretrain_epochs = 0.0  # the first epochs of the run: the auxiliary loss alone

    o: Any = ml_collections.ConfigDict()
    c.optim = o
    o.name = "adam"  # adam | adamw | rmsprop | sgd
    o.learning_rate = 1e-3  # peak
    o.clip_norm = 1.0  # global gradient norm; 0 = no clipping
    o.clip_scope = "all"  # all | cell: which parameters the norm covers
    o.weight_decay = 0.0  # adamw; never on biases
    o.schedule = "constant"  # constant | cosine | step
    o.warmup_steps = 0  # linear warm-up to the peak, steps; the schedule starts after it
    o.decay_every_epochs = 0  # step: epochs between two decays
    o.decay_rate = 0.5  # step: factor of one decay
    o.pretrain_decay = 1.0  # factor by which the rate falls, smoothly, over all of pre-training

    s: Any = ml_collections.ConfigDict()
    c.sweep = s  # values that train side by side in one program, each with every seed; () = none
    s.learning_rate = ()  # in place of optim.learning_rate, e.g. (1e-3, 3e-4)
    s.clip_norm = ()  # optim.clip_norm
    s.weight_decay = ()  # optim.weight_decay
    s.p_block = ()  # detach.p_block
    s.c_block = ()  # detach.c_block

    t: Any = ml_collections.ConfigDict()
    c.train = t
    t.num_steps = 0  # optimizer steps; wins over num_epochs when > 0
    t.num_epochs = 30.0  # one epoch is ceil(n_train / batch_size) steps
    t.stop_step = (
        0  # a budget: ends the run here, its schedules staying those of the whole; 0 = off
    )
    t.eval_every_steps = 0  # 0 = once an epoch
    t.checkpoint_every_steps = 0  # 0 = with every evaluation
    t.log_every_steps = 50

    e: Any = ml_collections.ConfigDict()
    c.eval = e
    e.split = "test"  # train | valid | test, for --mode=eval
    e.batch_size = 0  # examples per evaluation batch; 0 = the training batch size
    e.delays = ()  # copy: evaluate at each of these delays, e.g. (200, 400, 1000); () = data.delay
    e.sample_tokens = 0  # language: write a text of so many tokens instead of evaluating
    e.temperature = 1.0  # of the sample: logits are divided by it; 0 = always the likeliest token
    e.prompt = ""  # what the sample goes on from
    e.sample_seed = 0  # another one draws another text

    v: Any = ml_collections.ConfigDict()
    c.devices = v
    v.cpu_devices = 0  # JAX devices on a CPU; 0 = the most cores that divide what is split
    v.split = "batch"  # batch: every step over all devices | seeds: whole runs, no communication
    v.deterministic = True  # GPU: bit-reproducible kernels
    return c


def finish(config: Any, arg: str, rows: dict | None = None) -> ml_collections.ConfigDict:
    """Applies a config argument: a comma list of a row and/or `quick`.

    Args:
      config: an experiment; changed in place.
      arg: what follows the colon of `--config=file.py:arg`.
      rows: row name -> {"group.key": value}, the rows of a paper's table that the file offers.

    Returns:
      The config.

    Raises:
      ValueError: a word that is no row of this file; not exactly one row where there are rows.
    """
    rows = rows or {}
    words = [word for word in arg.split(",") if word]
    known = ", ".join([*rows, "quick"])
    if unknown := [word for word in words if word not in rows and word != "quick"]:
        raise ValueError(f"unknown argument {unknown[0]!r}; known: {known}")
    chosen = [word for word in words if word in rows]
    if rows and len(chosen) != 1:
        raise ValueError(f"name one row, not {arg!r}; known: {known}")
    for row in chosen:
        config.update_from_flattened_dict(rows[row])
    if "quick" in words:  # shrunk for tests and a first look
        config.data.delay = min(config.data.delay, 20)
        config.data.length = min(config.data.length, 50)
        config.model.hidden_size = min(config.model.hidden_size, 16)
        config.model.head_hidden = tuple(min(width, 32) for width in config.model.head_hidden)
        config.model.embedding_size = min(config.model.embedding_size, 16)
        config.aux.segment_length = min(config.aux.segment_length, 20)
        config.aux.head_hidden = tuple(min(width, 32) for width in config.aux.head_hidden)
        config.aux.pretrain_epochs = min(config.aux.pretrain_epochs, 0.02)
        config.truncate.steps = min(config.truncate.steps, 20)
        config.detach.off_last_epochs = 0  # or it would be off in all of so few epochs
        config.train.num_steps = 30
        config.train.eval_every_steps = 10
        config.train.log_every_steps = 5
    return config
