"""Pictures of what a network does with time, and their numbers: `python -m lrd_jax.probe`.

    python -m lrd_jax.probe gradients --workdir=runs/urlstm_pdigits

Exit status: 0 done; 2 bad input.
"""

from __future__ import annotations

from lrd_jax.runtime import address_space, terminal

if __name__ == "__main__":  # before what loads JAX
    terminal.be_courteous()
    address_space.check_or_exit()

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lrd_jax.config.command_line import ArgumentParser
from lrd_jax.errors import UserError, did_you_mean
from lrd_jax.probe import command_line as words

_NETWORKS = """
networks, in any number; what follows one, up to the next, belongs to it:
  --config=FILE.py[:ROW]   one as it is initialised, with the data of this config
  --workdir=DIR            the best parameters of a run
  --config.KEY=VALUE       a change to the network before it
  --label=TEXT             its name in the legend
"""


class _Probe(NamedTuple):
    """A row of the table of subcommands.

    Attributes:
      help: in a line.
      add: adds its own arguments to a parser.
      run: does it, of the parsed arguments and the networks; gets the whole command too.
      networks: whether it looks at networks, or at runs named in `add`.
    """

    help: str
    add: Callable[[ArgumentParser], None]
    run: Callable[[Any, list[words.Named], str], None]
    networks: bool = True


def _add_examples(to: ArgumentParser, examples: int) -> None:
    """Adds which examples are looked at, and how many seeds of an untrained network."""
    to.add_argument(
        "--examples",
        type=words.whole_number(1),
        default=examples,
        help="of the split that are looked at, the first ones; default: %(default)s",
    )
    to.add_argument("--split", choices=("train", "valid", "test"), default="valid")
    to.add_argument(
        "--seeds",
        type=words.whole_number(1),
        default=3,
        help="initialisations of an untrained network; default: %(default)s",
    )


def _subjects(flags: Any, networks: Sequence[words.Named]) -> list[Any]:
    """Loads the networks, and tells what has to be known of them."""
    from lrd_jax.probe import subjects

    found = []
    for network in networks:
        config, overrides = network.flag.config, network.flag.overrides
        if network.workdir:
            subject = subjects.trained(
                network.workdir, config, overrides=overrides, label=network.label
            )
        else:
            subject = subjects.untrained(
                config,
                source=network.flag.spec,
                overrides=overrides,
                seeds=flags.seeds,
                label=network.label,
            )
        found.append(subject)
    found = subjects.told_apart(found)
    for subject in found:
        for note in subject.notes:
            print(f"note: {subject.label}: {note}")
    return found


def _gradients(flags: Any, networks: list[words.Named], command: str) -> None:
    """`probe gradients`: a figure of norms over time, and a line for each network."""
    from lrd_jax.probe import gradients, output
    from lrd_jax.probe.subjects import first_examples

    entries, subjects = [], _subjects(flags, networks)
    for subject in subjects:
        measured = gradients.flow(subject, split=flags.split, examples=flags.examples)
        entries.append(gradients.numbers(subject, measured))
        print(gradients.line(entries[-1]))
    output.write(
        words.stem(flags.out, "gradients", networks),
        gradients.draw(entries, narrow=flags.width == "column"),
        {"kind": "gradients", "split": flags.split, "loss": gradients.LOSS, "settings": entries},
        command=command,
        heading=flags.title or "How far back the gradient reaches",
        note=gradients.NOTE + first_examples(subjects, flags.split, flags.examples),
    )


def _timescales(flags: Any, networks: list[words.Named], command: str) -> None:
    """`probe timescales`: a figure of gates and time scales, and a line for each network."""
    from lrd_jax.probe import output, timescales
    from lrd_jax.probe.subjects import first_examples

    entries, subjects = [], _subjects(flags, networks)
    for subject in subjects:
        entries.append(timescales.measure(subject, split=flags.split, examples=flags.examples))
        print(timescales.line(entries[-1]))
    output.write(
        words.stem(flags.out, "timescales", networks),
        timescales.draw(entries, narrow=flags.width == "column"),
        {"kind": "timescales", "split": flags.split, "settings": entries},
        command=command,
        heading=flags.title or "How long the gates keep",
        note=timescales.NOTE + first_examples(subjects, flags.split, flags.examples),
    )


def _memory(flags: Any, networks: list[words.Named], command: str) -> None:
    """`probe memory`: a figure, and of text a page, of what each network remembers."""
    from lrd_jax.probe import memory, output
    from lrd_jax.probe.subjects import first_examples
    from lrd_jax.reporting.page import page, write_page
    from lrd_jax.reporting.surprise import coloured

    subjects = _subjects(flags, networks)
    entries = [
        memory.measure(
            subject, split=flags.split, examples=flags.examples, delays=tuple(flags.delays)
        )
        for subject in subjects
    ]
    stem = words.stem(flags.out, "memory", networks)
    figure = memory.draw(entries, narrow=flags.width == "column")
    if figure is None:
        whole = page(flags.title or "Surprise at each token", *map(coloured, entries))
        print("wrote", write_page(stem.with_name(f"{stem.name}.html"), whole))
    output.write(
        stem,
        figure,
        {"kind": "memory", "split": flags.split, "settings": entries},
        command=command,
        heading=flags.title or "What is remembered",
        note=memory.note(entries) + first_examples(subjects, flags.split, flags.examples),
    )


def _add_memory(to: ArgumentParser) -> None:
    """Adds the arguments of `probe memory`."""
    _add_examples(to, 250)
    to.set_defaults(split="test")
    to.add_argument(
        "--delays",
        type=words.whole_number(1),
        nargs="*",
        default=[],
        help="of copying; default: from a quarter of the trained delay to four times",
    )


def _model(flags: Any, networks: list[words.Named], command: str) -> None:
    """`probe model`: one time step as a graph, and a table of parameters."""
    from lrd_jax.probe import model, output

    if len(networks) > 1:
        raise UserError("one model makes one drawing: name one --config or --workdir")
    (subject,) = _subjects(flags, networks)
    record = model.numbers(subject)
    print(model.text_table(record["parameters"]))
    output.write(
        words.stem(flags.out, "model", networks),
        model.draw(record, narrow=flags.width == "column"),
        {"kind": "model", **record},
        command=command,
        heading=flags.title or f"One time step of {record['cell']}",
        kinds=("png", "svg", "pdf"),
    )


def _curves(flags: Any, networks: list[words.Named], command: str) -> None:
    """`probe curves`: a figure of curves, and a table of what the runs differ by."""
    from lrd_jax.probe import curves, output

    record = curves.read(flags.runs, flags.label)
    for run in record["runs"]:
        for note in run["notes"]:
            print(f"note: {run['label']}: {note}")
    figure = curves.draw(record, narrow=flags.width == "column")
    print(output.aligned(*curves.rows(record)))
    output.write(
        words.stem(flags.out, "curves", networks),
        figure,
        {"kind": "curves", **curves.numbers(record)},
        command=command,
        heading=flags.title,
        note=curves.note(record),
    )


def _add_runs(to: ArgumentParser) -> None:
    """Adds the arguments of `probe curves`."""
    to.add_argument("runs", metavar="RUN", nargs="+", help="work directories")
    to.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="TEXT",
        help="a run's name in the legend: one for each run, in their order; default: its folder",
    )


def _add_seeds(to: ArgumentParser) -> None:
    to.set_defaults(seeds=1)


def _add_examples_32(to: ArgumentParser) -> None:
    _add_examples(to, 32)


_PROBES = {
    "gradients": _Probe(
        "norms of dL/dh_t and dL/dc_t over time, and how far back they reach",
        _add_examples_32,
        _gradients,
    ),
    "timescales": _Probe(
        "values of forget and effective gates, and the time scales of the units",
        _add_examples_32,
        _timescales,
    ),
    "memory": _Probe(
        "accuracy by position, delay or number of steps shown, saliency, surprise at tokens",
        _add_memory,
        _memory,
    ),
    "curves": _Probe(
        "loss and score over steps and time, several runs in one figure, and how they differ",
        _add_runs,
        _curves,
        networks=False,
    ),
    "model": _Probe(
        "one time step of the cell as a graph, and every parameter with its shape",
        _add_seeds,
        _model,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    terminal.quiet()
    return terminal.status_of(lambda: _run(argv))


def _run(argv: list[str]) -> None:
    """Parses the command line and runs the probe it names; UserError for bad input."""
    listed = "\n".join(f"  {name:12} {probe.help}" for name, probe in _PROBES.items())
    top = words.parser("python -m lrd_jax.probe", f"Pictures of what a network does:\n{listed}")
    top.add_argument("probe", metavar="PROBE", help="one of these; PROBE --help tells more")
    if not argv or argv[0].startswith("-"):
        top.parse_args(argv)
    name = argv[0]
    if name not in _PROBES:
        hint = did_you_mean(name, _PROBES)
        raise UserError(f"unknown probe {name!r}{hint or ': use ' + ', '.join(_PROBES)}")
    probe = _PROBES[name]
    own = words.parser(
        f"python -m lrd_jax.probe {name}", f"Draws {probe.help}.", _NETWORKS * probe.networks
    )
    probe.add(own)
    words.add_output(own, name)
    own.add_argument("--title", default="", help="above the figure")
    networks: list[words.Named] = []
    rest = argv[1:]
    if probe.networks and not {"--help", "-h"}.intersection(rest):
        networks, rest = words.split_networks(rest)
    flags = own.parse_args(rest)
    if probe.networks and not networks:
        raise UserError(
            "name a network: --workdir=DIR of a run, or --config=FILE for an untrained one"
        )
    probe.run(flags, networks, words.command(argv))


if __name__ == "__main__":
    sys.exit(main())
