"""Sequences of a person's own: every format gives the same, every wrong file one line."""

import json

import numpy as np
import pytest

from lrd_jax.config.defaults import get_config
from lrd_jax.data import make_dataset
from lrd_jax.data.sequence_files import Layout, read, stream
from lrd_jax.data.sequence_fit import Fit, Statistics, fit, statistics
from lrd_jax.errors import UserError

RNG = np.random.default_rng(0)
LENGTHS = [3, 5, 2, 4, 6, 1]
VALUES = [RNG.normal(size=(length, 2)).astype(np.float32) for length in LENGTHS]
LABELS = ["up", "down", "up", "up", "down", "down"]


def table(rows):
    return "\n".join(",".join(map(str, row)) for row in rows) + "\n"


def rows(values=VALUES, labels=LABELS):
    found = [("id", "time", "a", "b", "target")]
    for number, (each, label) in enumerate(zip(values, labels, strict=True)):
        found += [(f"s{number}", t, *map(repr, map(float, x)), label) for t, x in enumerate(each)]
    return found


def write_all(folder):
    """The same sequences in every format."""
    text = table(rows())
    (folder / "t.csv").write_text(text, encoding="utf-8")
    padded = np.full((len(VALUES), max(LENGTHS), 2), np.nan)
    for row, each in zip(padded, VALUES, strict=True):
        row[: len(each)] = each
    beside = {"lengths": np.array(LENGTHS), "targets": np.array(LABELS)}
    np.savez(folder / "p.npz", inputs=padded, **beside)
    np.save(folder / "n.npy", padded)
    for name, array in beside.items():
        np.save(folder / f"n_{name}.npy", array)
    np.savez(folder / "l.npz", targets=LABELS, **{f"x_{i}": x for i, x in enumerate(VALUES)})
    head = "# a comment\n@problemName x\n@timeStamps false\n@univariate false\n@dimensions 2\n"
    lines = [
        ":".join(",".join(map(repr, map(float, x))) for x in each.T) + f":{label}"
        for each, label in zip(VALUES, LABELS, strict=True)
    ]
    head += "@equalLength false\n@classLabel true down up\n@data\n"
    (folder / "a.ts").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    parquet.write_table(csv.read_csv(pyarrow.BufferReader(text.encode())), folder / "q.parquet")
    return ["t.csv", "p.npz", "n.npy", "l.npz", "a.ts", "q.parquet"]


def test_every_format_gives_the_same(tmp_path):
    for name in write_all(tmp_path):
        found = read(tmp_path / name)
        parts = list(stream(tmp_path / name, at_once=4))
        assert [len(part) for part in parts] == [4, 2], name
        for each, same, value in zip(
            found.inputs, [x for part in parts for x in part.inputs], VALUES, strict=True
        ):
            np.testing.assert_array_equal(each, value), name
            np.testing.assert_array_equal(each, same), name
        made = fit(statistics(parts))
        assert (made.kind, made.classes, made.length) == ("class", ("down", "up"), 6), name
        assert [int(t) for t in made.apply(found).targets] == [1, 0, 1, 1, 0, 0], name


def test_the_reader_of_a_large_table_may_cut_it_anywhere(tmp_path, monkeypatch):
    from lrd_jax.data import sequence_tables

    (tmp_path / "t.csv").write_text(table(rows()), encoding="utf-8")
    monkeypatch.setattr(sequence_tables, "_BLOCK", 130)  # a few rows
    found = read(tmp_path / "t.csv")
    assert found.ids == [f"s{number}" for number in range(6)]
    assert [place.row for place in found.places] == [2, 5, 10, 12, 16, 22]
    for each, value in zip(found.inputs, VALUES, strict=True):
        np.testing.assert_array_equal(each, value)


def test_statistics_in_parts_are_those_of_the_whole(tmp_path):
    write_all(tmp_path)
    parts = statistics(stream(tmp_path / "t.csv", at_once=1))
    whole = np.concatenate(VALUES).astype(np.float64)
    for how, offset, width in (
        ("standard", whole.mean(0), whole.std(0)),
        ("minmax", whole.min(0), np.ptp(whole, axis=0)),
        ("none", np.zeros(2), np.ones(2)),
    ):
        made = fit(parts, scale=how)
        np.testing.assert_allclose(made.offset, offset, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(made.scale, 1 / width, rtol=1e-12)
        assert Fit.from_json(made.to_json()) == made
    kept = json.loads(json.dumps(parts.to_json()))
    again = Statistics.from_json(kept, parts.lengths)
    assert fit(again, scale="standard") == fit(parts, scale="standard")


def kinds_of(tmp_path, targets, **options):
    """The fit of two sequences of three steps with these targets, one a step."""
    text = [("id", "time", "x", "target")]
    text += [("ab"[i // 3], i, i, target) for i, target in enumerate(targets)]
    (tmp_path / "k.csv").write_text(table(text), encoding="utf-8")
    found = read(tmp_path / "k.csv")
    made = fit(statistics([found]), **options)
    return made, made.apply(found).targets


def test_kinds_of_target_are_found(tmp_path):
    made, targets = kinds_of(tmp_path, "uuuvvv")
    assert made.kind == "class" and [t.shape for t in targets] == [(), ()]
    made, targets = kinds_of(tmp_path, "uvuvvu")
    assert made.kind == "class_per_step"
    np.testing.assert_array_equal(targets, [[0, 1, 0], [1, 1, 0]])
    made, targets = kinds_of(tmp_path, [1.5] * 3 + [2.5] * 3, scale="standard")
    assert made.kind == "number"
    np.testing.assert_allclose(targets, [[-1], [1]])
    np.testing.assert_allclose(made.numbers(targets), [[1.5], [2.5]])
    made, targets = kinds_of(tmp_path, [1, 2, 3, 4, 5, 6])
    assert made.kind == "number_per_step" and targets[1].shape == (3, 1)
    made, targets = kinds_of(tmp_path, [10, 10, 10, 9, 9, 9])
    assert made.classes == ("9", "10")  # by size, not by the alphabet
    made, targets = kinds_of(tmp_path, [10, 10, 10, 9, 9, 9], target="number")
    assert made.kind == "number" and targets[0] == 10
    made, targets = kinds_of(tmp_path, "uuuvvv", target="next")
    np.testing.assert_array_equal(targets, [[[1], [2]], [[4], [5]]])


@pytest.mark.parametrize("how", ["mask", "hold"])
def test_missing_values(tmp_path, how):
    text = "id,time,x,y,target\na,0,,1,u\na,1,4,,u\na,2,,3,u\nb,0,2,8,v\n"
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    found = read(tmp_path / "m.csv")
    with pytest.raises(UserError, match=r"m\.csv, row 2: channel 'x' has no value; set data\.miss"):
        fit(statistics([found]))
    made = fit(statistics([found]), missing=how)
    filled = made.apply(found).inputs[0]
    if how == "hold":
        np.testing.assert_array_equal(filled, [[3, 1], [4, 1], [4, 3]])
    else:
        np.testing.assert_array_equal(filled, [[3, 1, 1, 0], [4, 4, 0, 1], [3, 3, 1, 0]])
    assert made.offset[2:] == (0.0,) * (2 if how == "mask" else 0)


# ---- A careless user's files --------------------------------------------------------------------

GOOD = rows(VALUES[:4], ["up", "down", "up", "down"])


def edited(row, column, value):
    changed = [list(each) for each in GOOD]
    changed[row][column] = value
    return {"all.csv": table(changed)}


def arrays(**content):
    return {"all.npz": content}


TS = "@problemName x\n@timeStamps false\n@univariate false\n@classLabel true u v\n@data\n"
WRONG = {
    "no such folder": (None, r"data\.path=.*: there are no sequences in files of \.npz"),
    "empty file": ({"all.csv": ""}, r"all\.csv is empty"),
    "names alone": ({"all.csv": "id,time,a,target\n"}, r"all\.csv has no sequences"),
    "no number": (edited(3, 2, "abc"), r"all\.csv, row 4: 'abc' in column 'a' is not a number"),
    "no value": (edited(3, 2, ""), r"all\.csv, row 4: channel 'a' has no value; set data\.missing"),
    "infinite": (edited(3, 2, "inf"), r"all\.csv, row 4: channel 'a' is infinite"),
    "time stands": (edited(3, 1, "1"), r"row 4: the time of sequence 's0' does not increase"),
    "time missing": (edited(3, 1, ""), r"row 4: the time is missing"),
    "time a word": (edited(3, 1, "noon"), r"row 4: 'noon' in column 'time' is not a number or a"),
    "no id": (edited(3, 0, ""), r"row 4: column 'id' is empty: which sequence"),
    "no target": (edited(3, 4, ""), r"row 4: the target 'target' is missing"),
    "id comes back": (edited(9, 0, "s0"), r"row 10: sequence 's0', begun in row 2, goes on after"),
    "too few values": (
        {"all.csv": table(GOOD[:3]) + "s0,5\n"},
        r"all\.csv, row 4: 2 values, and the table has 5 columns",
    ),
    "other column": (
        {"all.csv": table(GOOD).replace("target", "label")},
        r"has no column 'target': it has id, time, a, b, label; name another by data\.target_col",
    ),
    "semicolons": (
        {"all.csv": table(GOOD).replace(",", ";")},
        r"its columns are separated by ';'; use commas",
    ),
    "column twice": ({"all.csv": "id,time,a,a\n1,1,1,1\n"}, r"has two columns 'a'"),
    "not UTF-8": ({"all.csv": b"id,time,\xff\n"}, r"all\.csv is no text in UTF-8"),
    "no Parquet": ({"all.parquet": "id,time\n"}, r"all\.parquet is no Parquet file"),
    "unseen label": (
        {"train.csv": table(GOOD), "test.csv": table(GOOD[:3]).replace("up", "upp")},
        r"test\.csv, row 2: the label 'upp' is in no training sequence: did you mean up\?",
    ),
    "other channels": (
        {"train.csv": table(GOOD), "test.csv": table([each[:3] + each[4:] for each in GOOD])},
        r"test\.csv, row 2 has the channels a, and those before have a, b",
    ),
    "objects": (
        arrays(inputs=np.array([[1], [1, 2]], object), targets=[0, 1]),
        r"all\.npz holds an array of objects, which is never unpickled",
    ),
    "cut archive": ({"all.npz": b"PK\x03\x04abc"}, r"all\.npz is damaged"),
    "no inputs": (arrays(data=np.zeros((2, 3))), r"must hold either `inputs`.*it holds data"),
    "empty sequence": (
        arrays(inputs=np.zeros((2, 3)), lengths=[3, 0], targets=[0, 1]),
        r"all\.npz, inputs\[1\]: lengths\[1\]=0: the sequence is empty",
    ),
    "length too large": (
        arrays(inputs=np.zeros((2, 3)), lengths=[3, 4], targets=[0, 1]),
        r"lengths\[1\]=4: its length does not fit 3 steps",
    ),
    "targets missing": (arrays(inputs=np.zeros((2, 3))), r"has no array `targets`; set data\.tar"),
    "ragged arrays": (
        arrays(x_0=np.zeros((2, 3)), x_1=np.zeros((2, 2)), targets=[0, 1]),
        r"all\.npz, x_1 has 2 channels, and .*x_0 has 3",
    ),
    "ragged channels": (
        {"all.ts": TS + "1,2,3:1,2:u\n"},
        r"all\.ts, line 6: channel 1 has 2 steps, and channel 0 has 3",
    ),
    "unknown label": ({"all.ts": TS + "1:1:w\n"}, r"line 6: the label 'w' is none of @classLabel"),
    "no data line": ({"all.ts": "@problemName x\n"}, r"has no line @data"),
    "a word": ({"all.ts": TS + "1,x:1,2:u\n"}, r"line 6: 'x' in channel 0 is no number"),
    "time stamps": ({"all.ts": TS.replace("false", "true", 1) + "(0,1):u"}, r"has time stamps"),
    "two trainings": (
        {"a_train.csv": table(GOOD), "b_train.csv": table(GOOD)},
        r"a_train\.csv and b_train\.csv are both for train; name what the files",
    ),
    "stray file": (
        {"train.csv": table(GOOD), "more.csv": table(GOOD)},
        r"more\.csv is none of train, valid and test",
    ),
    "one class": (
        {"all.csv": table(GOOD).replace("down", "up")},
        r"have 1 different labels, and classes need 2",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_gets_one_line(name, tmp_path):
    files, message = WRONG[name]
    config = get_config()
    config.data.update(name="sequences", path=str(tmp_path), valid_split="0.25", test_split="0.25")
    for file, content in (files or {}).items():
        if isinstance(content, dict):
            np.savez(tmp_path / file, **content)
        elif isinstance(content, bytes):
            (tmp_path / file).write_bytes(content)
        else:
            (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        make_dataset(config)
    assert "\n" not in str(caught.value)


def test_targets_that_are_not_needed(tmp_path):
    (tmp_path / "t.csv").write_text("id,time,x\na,1,2\na,2,3\n", encoding="utf-8")
    found = read(tmp_path / "t.csv", need_targets=False)
    assert found.targets is None and found.channels == ("x",)
    assert fit(statistics([read(tmp_path / "t.csv", Layout(target_columns=()))])).kind == "next"


def own(folder, **options):
    (folder / "all.csv").write_text(table(GOOD).replace("up", "1").replace("down", "0"), "utf-8")
    config = get_config()
    config.data.update(name="sequences", path=str(folder), valid_split="0.25", test_split="0.25")
    config.data.update(batch_size=2, **options)
    return config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": ("a", "a")}, r"data\.channels=\('a', 'a'\) names a column twice"),
        ({"target_columns": ("target", "target")}, r"names a column twice"),
        ({"channels": ("a", "target")}, r"column 'target' is the target, and a channel too"),
    ],
)
def test_wrong_columns(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        make_dataset(own(tmp_path, **options))


def test_a_forecast_may_read_a_column_that_is_called_target(tmp_path):
    data = make_dataset(own(tmp_path, channels=("a", "target"), target="next"))
    assert data.spec.features == 2
