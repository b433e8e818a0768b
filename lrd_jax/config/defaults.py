"""Every key, with its unit and meaning. An experiment imports this and changes what differs.

No key holds None or mixes types: 0 means off or derived, mixed choices are strings.

A work directory may be older than a key: then the key's default holds for it. So a new key's
default must mean what the code did before there was the key, and a key that is renamed or moved
gets a line in `record.MOVED`.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from lrd_jax.errors import UserError


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults, locked: a mistyped key is an error, a value of another type too.

    A key that only a component of your own has (a field of your cell, say) is added by

        with c.unlocked():
            c.model.beta = 1.0
    """
    c: Any = ml_collections.ConfigDict()
    c.seed = 0  # initialisation, data order and every random draw of the (first) run
    c.num_seeds = 1  # seeds seed .. seed+num_seeds-1 train in one program

    data: Any = _group(c, "data")
    # digits | mnist | fashion_mnist | cifar10 | copy | adding | wikitext2 | wikitext103 | text |
    # recall | tracking | selective_copy | shapes | flickr8k | coco (pictures with captions) |
    # sequences (your own) | tfds:<name> (prepared by TFDS)
    data.name = "digits"
    data.data_dir = "~/tensorflow_datasets"  # where prepared data sets live
    # examples (of text: parallel streams; of captions: pictures) per step over all devices
    data.batch_size = 64
    data.permutation = "none"  # none | 92916 | bitreverse | seed:<n>; the same for every run seed
    data.order = "pixel"  # pixel: one pixel a step; row: one image row a step
    data.pixels_per_step = 1  # pixels grouped into one step, after the permutation
    # last:<n> | first:<n> training examples held out (digits: fixed); sequences: also a part, 0.2;
    # without effect where there is a file for it
    data.valid_split = "last:10000"
    # none | balanced: in the training loss a label counts by the inverse of how often its class is
    # in the training set, 1 on average; validation and test count all labels alike
    data.class_weights = "none"
    data.normalise = False  # cifar10: also subtract each channel's mean and divide by its deviation
    data.preset = ""  # copy, to be named: hdetach | gu | marker; published definitions differ
    data.delay = 0  # copy: blank steps between the symbols and the signal to recall them
    # adding, recall, tracking, selective_copy: time steps; text: tokens of a window
    data.length = 0
    data.problem = ""  # tracking: parity | cycle<n> | S3 | A5 | S5 | flipflop
    # tracking: ((steps, length), ...): so many steps on sequences of that length, one after
    # the other, then data.length; () = data.length from the start
    data.curriculum = ()
    data.num_items = 16  # selective_copy: symbols to remember
    data.pairs = 0  # recall: pairs of a key and a value, each asked for once
    data.vocabulary = 8192  # recall: symbols, half keys, half values; selective_copy: symbols
    data.query_power = 0.01  # recall: a place's probability falls as its distance^(this - 1)
    data.text_dir = ""  # text: folder of .txt files, or one file; see lrd_jax/data/text.py
    data.unit = "char"  # text: char | word
    data.encoding = "preset"  # copy: preset (what the preset's paper used) | scalar | onehot
    data.steps_per_epoch = 1000  # tasks that are drawn: training batches that are called one epoch

    # Sequences of your own, see docs/your_data.md.
    data.path = ""  # a file, a folder, or what the files in it begin with, as DIR/GunPoint
    data.test_split = ""  # as valid_split, where there is no file for it; "" = there must be one
    # auto (found from the files) | class | number | class_per_step | number_per_step | next
    data.target = "auto"
    data.scale = "none"  # none | standard | minmax, by training sequences; of predicted numbers too
    # missing values: refuse | hold (the last value stands for it) | mask (the mean, and a channel
    # that tells)
    data.missing = "refuse"
    data.id_column = "id"  # of a table: names the sequence of a row
    data.time_column = "time"  # of a table: must increase; "" = the order of the rows
    data.target_columns = ("target",)  # of a table: one, or several numbers; () = none
    data.channels = ()  # of a table: columns that are read, () = all others; else their names
    data.buckets = 4  # different lengths that training batches are padded to, at most
    # so many batches are put in order of their lengths together, to be padded less; 1 = none
    data.bucket_batches = 1

    # Captions; shapes has features of its own and no restval.
    data.encoder = "efficientnet_lite0"  # flickr8k, coco: folder of the features to read
    data.captions_per_image = 5  # of each picture in a batch
    data.max_words = 16  # longer captions are cut
    data.min_count = 5  # words are kept that occur more often than this, others become UNK
    data.vocabulary_from = "train"  # train | all: splits whose words are counted
    data.use_restval = True  # coco: the pictures of the split restval train
    # features less their mean, over their deviation, each of training pictures
    data.standardise = False

    model: Any = _group(c, "model")
    # rnn | lstm | gated_lstm | urlstm | gru | gated_gru | onlstm | mingru | minlstm | lru | s5 |
    # cornn | lem | slstm | indrnn | unicornn | legs | gated_legs
    model.cell = "lstm"
    model.gates = "UR"  # gated cells: -- | C- | O- | U- | -R | OM | UM | OR | UR
    model.hidden_size = 128  # units per layer
    model.num_layers = 1  # recurrent layers, one above the other
    model.tied_input = True  # gated_lstm: input gate 1 - g
    model.forget_bias = 1.0  # lstm, gated_lstm: initial bias of plain sigmoid forget gates
    # lstm: zeros; two_uniform: sum of two U(-1/sqrt d, 1/sqrt d) (h-detach)
    model.bias_init = "zeros"
    model.use_bias = True  # lstm: False = no bias at all (needs forget_bias=0)
    model.activation = "tanh"  # rnn: tanh | relu
    # kernel_init | orthogonal | identity: of each block of the recurrent kernel (rnn with relu and
    # identity: the IRNN)
    model.recurrent_init = "kernel_init"
    # neg_forget | zero: shift of the refine gate (UR; GRU always zero)
    model.refine_bias = "neg_forget"
    model.share_refine_bias = True  # one parameter for both biases
    model.ugi_margin = 0.0  # margin of the uniform gate initialisation; 0 = 1/hidden_size
    model.chrono_t_max = 0  # longest time scale of the chrono bias, steps; 0 = the sequence length
    model.chunk_size = 1  # units that share one master gate (OM, UM, onlstm)
    model.reset_gate = "--"  # gated_gru: -- | U- | -R | UR
    # rnn, lstm, gru and gated ones of lstm: LayerNorm of both products and of c inside the step
    model.layer_norm = False
    # lru, s5: complex numbers of state; legs, gated_legs: coefficients of memory; 0 = hidden_size
    model.state_size = 0
    model.r_min = 0.0  # lru: least initial |lambda|
    model.r_max = 1.0  # lru: largest initial |lambda|
    model.max_phase = 6.28  # lru: largest initial phase, radians
    model.hippo_size = 0  # s5: numbers of state that share a HiPPO matrix at the start; 0 = all
    model.step_min = 1e-3  # s5: least initial step in time
    model.step_max = 0.1  # s5: largest initial step in time
    model.step_size = 0.1  # cornn, lem, unicornn: step in time, Delta
    model.stiffness = 1.0  # cornn: gamma; unicornn: alpha
    model.damping = 1.0  # cornn: epsilon
    model.heads = 1  # slstm: groups of units that do not mix in the recurrent product
    model.recurrent_max = 0.0  # indrnn: bound of |u|; 0 = none
    model.kernel_init = "uniform_rsqrt"  # uniform_rsqrt | xavier | trunc_normal
    # none | residual: layers above the first add to what they read | prenorm: LayerNorm before each
    # of them too
    model.block = "none"
    # what the head reads of a sequence with one label: last | mean | max over time
    model.pool = "last"
    model.head_hidden = (256,)  # widths of the ReLU layers between last state and classes
    model.head_dropconnect = 0.0  # rate of DropConnect on the second matrix of each head
    # deviation of the noise added to every number that enters, as the network sees it (scaled); in
    # training alone
    model.input_noise = 0.0
    model.bidirectional = False  # adds to every layer one that reads the sequence backwards
    model.dropout = 0.0  # rate between layers
    model.zoneout_h = 0.0  # probability, per step and unit, that h stays as it was
    model.zoneout_c = 0.0  # the same of c
    # rate at which elements of the recurrent kernels are zeroed, the same at all steps
    model.recurrent_dropconnect = 0.0
    model.learn_initial = False  # the initial state is a parameter
    # How values enter. linear: through a linear layer, as they are at embedding_size 0 | table: one
    # vector for each value (of a pixel, an id). language: always a table of tokens
    model.embedding = "linear"
    # Width before the first cell; 0 = no linear layer. language: of a token's vector, 0 =
    # hidden_size
    model.embedding_size = 0
    # language: one parameter embeds tokens and reads them out, without a bias
    model.tie_embeddings = False
    model.embedding_dropout = 0.0  # language: rate on the embedded tokens
    model.output_dropout = 0.0  # rate on what the head reads of the last layer
    model.caption = "show_tell"  # captions: show_tell | show_attend_tell
    model.attention_size = 512  # show_attend_tell: width of the attention's hidden layer
    model.compute_dtype = "float32"  # float32 | bfloat16: operands of the matrix products in time
    # how time is unrolled: auto | linear | fused | scan | kernel (on a GPU; see docs/gpu.md)
    model.backend = "auto"
    model.recompute = False  # fused: less memory, one more product a step in the backward pass

    detach: Any = _group(c, "detach")
    detach.p_block = 0.0  # probability, per step, of blocking the gradient through h (h-detach)
    detach.c_block = 0.0  # the same through c
    detach.scope = "batch"  # batch: one draw for the mini-batch | example: one for each example
    detach.stack_mask = "shared"  # shared: one draw for all layers | per_layer
    # show_attend_tell: the attention's query too sees the h whose gradient is blocked
    detach.attention_query = False
    detach.off_last_epochs = 0  # blocking is off in the last N epochs

    truncate: Any = _group(c, "truncate")
    truncate.steps = 0  # gradients reach back this many time steps; 0 = all the way
    # of the labels: same | stop: only the head learns from them | a number
    truncate.supervised = "same"

    aux: Any = _group(c, "aux")
    aux.kind = "none"  # none | reconstruct (r-LSTM) | predict (p-LSTM) | both
    aux.loss = "auto"  # mse | ce | auto: ce for tokens and tables of pixels, else mse
    aux.weight = 1.0  # of the auxiliary loss beside the task's
    aux.segment_length = 600  # steps of a segment; the decoder says all but the first
    aux.gap = 0  # steps between anchor and segment; -1 = random
    aux.n_anchors = 1  # drawn anew for every batch
    aux.scope = "batch"  # batch: one draw for the mini-batch | example: one for each example
    aux.decoder_layers = 2  # recurrent layers of the decoder
    aux.decoder_width = 0  # units; 0 = hidden_size, else a linear layer fits the state
    aux.head_hidden = (256, 256)  # widths of the ReLU layers between decoder and prediction
    # teacher | none: zeros after the first step | scheduled: own outputs
    aux.decoder_feed = "teacher"
    aux.reverse = False  # reconstruct: decode the segment backwards
    # none: embedded as the network's inputs (a table is shared) | decoder: a table of its own
    aux.embedding = "none"
    aux.pretrain_epochs = 0.0  # the first epochs of the run: the auxiliary loss alone

    optim: Any = _group(c, "optim")
    optim.name = "adam"  # adam | adamw | rmsprop | sgd
    optim.learning_rate = 1e-3  # peak
    optim.clip_norm = 1.0  # global gradient norm; 0 = no clipping
    optim.clip_value = 0.0  # each element of the gradient, before its norm; 0 = no clipping
    optim.clip_scope = "all"  # all | cell: which parameters clipping covers
    optim.momentum = 0.0  # rmsprop, sgd
    optim.weight_decay = 0.0  # adamw; never on biases
    optim.decay_recurrent = True  # adamw: weight decay acts on recurrent kernels too
    # Moving average of the parameters, e.g. 0.999: what is validated, chosen, tested and exported;
    # 0 = the parameters themselves
    optim.ema_decay = 0.0
    optim.groups = True  # rates and decays that a cell names for its parameters are in force
    optim.schedule = "constant"  # constant | cosine | step
    optim.warmup_steps = 0  # linear warm-up to the peak, steps; the schedule starts after it
    optim.decay_every_epochs = 0  # step: epochs between two decays
    optim.decay_rate = 0.5  # step: factor of one decay
    optim.pretrain_decay = 1.0  # factor by which the rate falls, smoothly, over all of pre-training

    sweep: Any = _group(c, "sweep")
    # values that train side by side in one program, each with every seed; () = none
    sweep.learning_rate = ()  # in place of optim.learning_rate, e.g. (1e-3, 3e-4)
    sweep.clip_norm = ()  # optim.clip_norm
    sweep.weight_decay = ()  # optim.weight_decay
    sweep.p_block = ()  # detach.p_block
    sweep.c_block = ()  # detach.c_block

    train: Any = _group(c, "train")
    train.num_steps = 0  # optimizer steps; wins over num_epochs when > 0
    train.num_epochs = 30.0  # one epoch is ceil(n_train / batch_size) steps
    # a budget: ends the run here, its schedules staying those of the whole; 0 = off
    train.stop_step = 0
    train.eval_every_steps = 0  # 0 = once an epoch
    # a run ends after so many evaluations in a row without a better one; of several seeds each
    # stays as it is from there on, and the run ends with the last; 0 = off
    train.patience = 0
    train.checkpoint_every_steps = 0  # 0 = with every evaluation
    train.log_every_steps = 50  # a line of training metrics, means since the last one
    # parts of a batch whose gradients are summed one after the other, for less memory; steps, draws
    # and results stay those of 1, to rounding
    train.accumulate = 1
    # optimizer steps in one call of the devices; 0 = 1 on a CPU, many on a GPU. Results do not
    # depend on it; a call ends at whatever is due, and after about a second
    train.steps_per_call = 0
    train.tensorboard = True  # write event files; metrics.jsonl has all of their numbers
    # none | wandb (Weights & Biases) | trackio: forwards the records too, in the project that
    # WANDB_PROJECT or TRACKIO_PROJECT names; what fails there costs a warning
    train.forward = "none"
    # Work directory of another run, whose best parameters this one starts from: one seed's for all,
    # or seed by seed; optimizer, schedule and step start anew. "" = parameters are drawn
    train.init_from = ""
    # every so many steps the gates of 16 validation examples go into gates.jsonl; 0 = never
    train.inspect_every_steps = 0
    # e.g. (100, 120): these steps are traced into profile/ of the work directory; () = none
    train.profile_steps = ()

    evaluation: Any = _group(c, "eval")
    evaluation.split = "test"  # train | valid | test, for --mode=eval
    # Examples per evaluation batch; 0 = the training batch size; independent sequences (all but
    # text) on a GPU: 2000 in all, divided by the number of runs side by side, if that is more
    evaluation.batch_size = 0
    # Examples (of text: windows) of a split that are evaluated at most, also while training: its
    # first ones; 0 = all. The result says where it cut
    evaluation.max_examples = 0
    # copy: evaluate at each of these delays, e.g. (200, 400, 1000); () = data.delay
    evaluation.delays = ()
    # tracking, selective_copy: the same at each of these lengths, e.g. (32, 256, 1024)
    evaluation.lengths = ()
    # language: windows of so many tokens, each from an empty state; 0 = the state is carried on
    evaluation.context = 0
    evaluation.sample_tokens = 0  # language: write a text of so many tokens instead of evaluating
    # of the sample: logits are divided by it; 0 = always the likeliest token
    evaluation.temperature = 1.0
    evaluation.prompt = ""  # what the sample goes on from
    evaluation.sample_seed = 0  # another one draws another text, or other captions
    # Captions; training validates greedily, and reads allow_unknown alone.
    evaluation.decode = "beam"  # beam | sample (at eval.temperature)
    evaluation.beam_size = 2  # captions kept at every word; 1 = greedy
    evaluation.length_power = 0.0  # a caption's log probability is divided by its words^this
    # one caption by all seeds together (the mean of their probabilities), beside the scores of each
    evaluation.ensemble = False
    evaluation.allow_unknown = True  # False: UNK is never chosen
    evaluation.sheet_images = 60  # pictures on the page that is written, at most
    evaluation.meteor = "auto"  # auto: where it can run | off | on

    devices: Any = _group(c, "devices")
    # JAX devices on a CPU, without effect on a GPU; 0 = the most cores that divide what is split
    devices.cpu_devices = 0
    # batch: every step over all devices | seeds: whole runs, no communication
    devices.split = "batch"
    # GPU: the same kernels in every process, none chosen by its time, so that resuming is exact
    devices.deterministic = True
    # Folder where compiled programs are kept, so that the next start takes less time; "" = off
    devices.compilation_cache = ""
    return c.lock()


def _group(c: Any, name: str) -> Any:
    c[name] = ml_collections.ConfigDict()
    return c[name]


def finish(
    config: Any,
    arg: str,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> ml_collections.ConfigDict:
    """Applies a config argument: a comma list of a row and/or `quick`.

    Args:
      config: an experiment; changed in place.
      arg: what follows the colon of `--config=file.py:arg`.
      rows: row name -> {"group.key": value}, the rows of a paper's table that the file offers.
      aliases: other name -> row name, e.g. {"pmnist-urlstm": "G5"}.

    Returns:
      The config.

    Raises:
      UserError: a word that is no row of this file; not exactly one row where there are rows.
    """
    rows, aliases = rows or {}, aliases or {}
    words = [aliases.get(word, word) for word in arg.split(",") if word]
    known = ", ".join([*rows, *aliases, "quick"])
    if unknown := [word for word in words if word not in rows and word != "quick"]:
        raise UserError(f"unknown argument {unknown[0]!r}; known: {known}")
    chosen = [word for word in words if word in rows]
    if rows and len(chosen) != 1:
        raise UserError(f"name one row, not {arg!r}; known: {known}")
    for row in chosen:
        config.update_from_flattened_dict(rows[row])
    if "quick" in words:
        shrink(config)
    return config


# What a quick run is small in: group -> the last word of a key's name -> the most that it may be. A
# name says what it measures, so this holds for keys of your own components as well.
_QUICK: Mapping[str, Mapping[str, float]] = {
    "data": {"batch_size": 50, "delay": 20, "length": 50, "pairs": 4, "num_items": 4},
    "model": {"size": 16, "hidden": 32, "width": 16, "layers": 2},
    "aux": {"length": 20, "hidden": 32, "width": 16, "layers": 2, "epochs": 0.02},
    "truncate": {"steps": 20},
    "optim": {"steps": 10},
}


def shrink(config: Any) -> None:
    """Shrinks an experiment in place for tests and a first look: the argument `quick`.

    By rule: 30 steps, at most 250 examples in an evaluation, and every number in `data`, `model`,
    `aux`, `truncate` and `optim` whose name ends in a word of `_QUICK` is at most what it says.
    """
    for group, words in _QUICK.items():
        for key, value in config[group].items():
            for word, most in words.items():
                if key == word or key.endswith(f"_{word}"):
                    config[group][key] = _at_most(value, most)
    config.detach.off_last_epochs = 0  # or it would be off in all of so few epochs
    config.train.num_steps = 30
    config.train.eval_every_steps = 10
    config.train.log_every_steps = 5
    config.eval.max_examples = min(config.eval.max_examples or 250, 250)


def _at_most(value: Any, most: float) -> Any:
    """Bounds a number, or each of a tuple; anything else stays."""
    if isinstance(value, tuple):
        return tuple(_at_most(element, most) for element in value)
    return min(value, type(value)(most)) if type(value) in (int, float) else value
