"""Text: vocabularies, the files of a folder, and windows of parallel streams."""

import collections
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.base import get_config
from lrd_jax.data import make_dataset
from lrd_jax.data.text import TextDataset
from lrd_jax.data.vocabulary import Vocabulary, number_symbols, order_by_frequency
from lrd_jax.errors import UserError

LETTERS = "abcdefghij"
PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)


def numbered(train, length, streams, valid=7):
    """A text whose tokens are their own places."""
    splits = {"train": np.arange(train), "valid": np.arange(valid), "test": np.arange(5)}
    splits = {name: tokens.astype(np.int32) for name, tokens in splits.items()}
    vocabulary = Vocabulary("char", tuple(map(chr, range(1000, 1000 + max(train, valid)))))
    return TextDataset(vocabulary, splits, length, streams, "numbers")


def from_folder(folder, unit="char", **data):
    config = get_config()
    config.data.update(name="text", text_dir=str(folder), unit=unit, length=4, batch_size=2, **data)
    return make_dataset(config)


def text_of(dataset, split):
    return dataset.spec.vocabulary.decode(dataset._splits[split])


# ---- Windows ------------------------------------------------------------------------------------


def check_streams(batches, tokens, streams, turn=0):
    """Each stream is contiguous, and all of them hold every token once, after the one before it."""
    rows = [[] for _ in range(streams)]
    for number, batch in enumerate(batches):
        assert batch["start"].tolist() == [number == 0] * streams
        assert batch["mask"].dtype == np.float32
        for row in range(streams):
            real = batch["mask"][row] == 1
            assert real[: real.sum()].all()  # padding comes last
            targets = batch["targets"][row][real]
            np.testing.assert_array_equal(batch["inputs"][row][real], (targets - 1) % tokens)
            rows[row].extend(targets)
    sizes = [len(row) for row in rows]
    assert max(sizes) - min(sizes) <= 1
    np.testing.assert_array_equal(np.concatenate(rows), (np.arange(tokens) + turn) % tokens)


@PROPERTY
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 12), st.integers(0, 3))
def test_an_epoch_holds_every_token_once(tokens, length, streams, epoch):
    streams = min(streams, tokens)
    dataset = numbered(tokens, length, streams)
    windows = dataset.num_train // streams
    assert windows == math.ceil(math.ceil(tokens / streams) / length)
    steps = range(epoch * windows, (epoch + 1) * windows)
    batches = [dataset.train_batch(3, step, slice(None)) for step in steps]
    check_streams(batches, tokens, streams, turn=batches[0]["targets"][0, 0])


@PROPERTY
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 50))
def test_an_evaluation_holds_every_token_once_in_order(tokens, length, streams):
    dataset = numbered(60, length, 2, valid=tokens)
    batches = list(dataset.eval_batches("valid", streams))
    check_streams(batches, tokens, streams)
    assert sum(batch["mask"].sum() for batch in batches) == dataset.eval_size("valid") == tokens


def test_a_batch_is_a_function_of_seed_and_step():
    one, other = numbered(100, 5, 4), numbered(100, 5, 4)
    late = one.train_batch(1, 13, slice(None))
    for name, value in other.train_batch(1, 13, slice(None)).items():
        np.testing.assert_array_equal(late[name], value)
        parts = [one.train_batch(1, 13, slice(a, a + 2))[name] for a in (0, 2)]
        np.testing.assert_array_equal(np.concatenate(parts), value)
    firsts = {
        (seed, epoch): one.train_batch(seed, epoch * 5, slice(None))["targets"][0, 0]
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(firsts.values())) > 5  # cut anew in each epoch, for each seed


def test_what_does_not_fit_is_refused():
    for length, streams, message in ((0, 2, "data.length=0"), (4, 0, "=0 streams"), (4, 9, "of 8")):
        with pytest.raises(UserError, match=message):
            numbered(8, length, streams)
    dataset = numbered(8, 2, 2)
    with pytest.raises(UserError, match="unknown split"):
        dataset.eval_size("dev")
    with pytest.raises(UserError, match="at least 1"):
        dataset.eval_batches("valid", 0)


# ---- Vocabularies -------------------------------------------------------------------------------

texts = st.text(alphabet=LETTERS + " \n", max_size=60)


@PROPERTY
@given(texts.filter(lambda text: len(text) > 0), texts)
def test_characters_are_numbered_by_frequency(train, valid):
    symbols, tokens = number_symbols({"train": [train], "valid": [valid]}, "char")
    kept, tokens = order_by_frequency(symbols, tokens, "char")
    counts = collections.Counter(train)
    known = [symbol for symbol in kept if symbol != "<unk>"]
    assert known == sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    vocabulary = Vocabulary("char", kept)
    assert vocabulary.decode(tokens["train"]) == train
    unseen = set(valid) - set(train)
    assert ("<unk>" in kept) == bool(unseen)
    shown = "".join("<unk>" if symbol in unseen else symbol for symbol in valid)
    assert vocabulary.decode(tokens["valid"]) == shown
    np.testing.assert_array_equal(vocabulary.encode(train), tokens["train"])


@PROPERTY
@given(st.lists(st.lists(st.sampled_from(LETTERS), max_size=5), min_size=1, max_size=8))
def test_words_come_back_line_by_line(lines):
    train = [" ".join(line) + "\n" for line in lines]
    symbols, tokens = number_symbols({"train": train}, "word")
    kept, tokens = order_by_frequency(symbols, tokens, "word")
    counts = collections.Counter(word for line in lines for word in line)
    rare = {word for word, count in counts.items() if count == 1}
    assert len(tokens["train"]) == counts.total() + len(lines)
    assert set(kept) == set(counts) - rare | {"<eos>"} | ({"<unk>"} if rare else set())
    shown = [" ".join("<unk>" if word in rare else word for word in line) for line in lines]
    vocabulary = Vocabulary("word", kept)
    assert vocabulary.decode(tokens["train"]) == "\n".join(shown) + "\n"
    if not rare:
        encoded = vocabulary.encode("".join(train)[:-1])
        np.testing.assert_array_equal(encoded, tokens["train"][:-1])  # no end of the last line


def test_a_corpus_with_unk_keeps_its_rare_words():
    lines = {"train": ["a a <unk> b\n"], "test": ["b c\n"]}
    kept, tokens = order_by_frequency(*number_symbols(lines, "word"), "word")
    assert kept == ("a", "<eos>", "<unk>", "b")
    assert tokens["train"].tolist() == [0, 0, 2, 3, 1]
    assert tokens["test"].tolist() == [3, 2, 1]  # c is unknown


def test_a_vocabulary_goes_through_json():
    vocabulary = Vocabulary("word", ("the", "é\u2028", '"', "<eos>"), {"train": "ab"})
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    assert vocabulary.start == 3
    assert Vocabulary("char", ("a", "\n")).start == 1 and Vocabulary("char", ("a", "b")).start == 0
    with pytest.raises(UserError, match="'cat' is not in the vocabulary"):
        vocabulary.encode("the cat")


def test_what_is_read_back_of_a_vocabulary_is_checked():
    vocabulary = Vocabulary("char", ("a", "é", "<unk>"), {"train": "ab", "test": "cd"})
    content = json.loads(vocabulary.to_json())
    old = {key: value for key, value in content.items() if key != "sha256"}
    assert Vocabulary.from_json(json.dumps(old)) == vocabulary
    for change in (
        {"symbols": ["é", "a", "<unk>"]},
        {"symbols": ["a", "é"]},
        {"unit": "word"},
        {"texts": {"train": "ab"}},
        {"sha256": None},
    ):
        with pytest.raises(ValueError, match="checksum"):
            Vocabulary.from_json(json.dumps(content | change))
    for change in (
        {"symbols": None},
        {"symbols": "aé"},
        {"symbols": []},
        {"symbols": ["a", "a"]},
        {"symbols": ["a", 1]},
        {"symbols": [["a"]]},
        {"unit": "line"},
        {"unit": ["char"]},
        {"texts": None},
        {"texts": []},
    ):
        for base in (content, old):
            with pytest.raises(ValueError):
                Vocabulary.from_json(json.dumps(base | change))
    for text in ("null", "[]", "7", "{}", "", "[" * 100_000, "\x00"):
        with pytest.raises(ValueError):
            Vocabulary.from_json(text)


@pytest.mark.parametrize(
    ("unit", "text", "told"), [("char", "aΩ<b", "'<', 'b', 'Ω'"), ("word", "a cat <unk>", "'cat'")]
)
def test_symbols_that_become_unknown_are_told_of_once(caplog, unit, text, told):
    vocabulary = Vocabulary(unit, ("a", "<unk>"))
    for _ in range(2):
        assert vocabulary.encode(text).tolist() == [0] + [1] * (len(vocabulary.encode(text)) - 1)
    assert [record.getMessage() for record in caplog.records] == [
        f"{told} not in the vocabulary: read as <unk>"
    ]
    vocabulary.encode("a")
    assert len(caplog.records) == 1


# ---- Folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["{}.txt", "ptb.{}.txt", "wiki.{}.tokens"])
def test_files_named_like_their_splits(tmp_path, name):
    for split in ("train", "valid", "test"):
        (tmp_path / name.format(split)).write_text(f" a <unk> {split} a b \n\n b \n")
    (tmp_path / "notes.txt").write_text("not a part of it")
    dataset = from_folder(tmp_path, "word")
    assert text_of(dataset, "train") == "a <unk> train a b\n\nb\n"
    assert text_of(dataset, "valid") == text_of(dataset, "test") == "a <unk> <unk> a b\n\nb\n"
    assert dataset.describe() == (
        f"text of {tmp_path.name} (train: {name.format('train')}; valid: {name.format('valid')}; "
        f"test: {name.format('test')}; not used: notes.txt): 5 different words, "
        "2 streams in windows of 4, train / valid / test 9 / 9 / 9"
    )


def test_any_text_files_and_what_is_held_out(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"second\r\n")
    (tmp_path / "a.txt").write_text("the first of them: é\n", "utf-8")
    (tmp_path / "README.md").write_text("not a part of it")
    dataset = from_folder(tmp_path)
    whole = "the first of them: é\nsecond\r\n"
    assert text_of(dataset, "train") == whole[:26]  # nine tenths of 29
    assert text_of(dataset, "valid") == text_of(dataset, "test") == "<unk>" * 2 + "\n"
    assert (
        "(train: a.txt, b.txt; the last tenth validates; test is the validation text)"
        in dataset.describe()
    )
    one = from_folder(tmp_path / "b.txt")
    assert text_of(one, "train") == "second\r"


@pytest.mark.parametrize(
    ("count", "shown"), [(4, "0.txt, 1.txt, 2.txt, 3.txt;"), (5, "2.txt, 3.txt and 1 more;")]
)
def test_of_many_files_the_first_are_named(tmp_path, count, shown):
    for number in range(count):
        (tmp_path / f"{number}.txt").write_text("a few words\n")
    assert shown in from_folder(tmp_path).describe()


def test_a_validation_file_alone_is_the_test_too(tmp_path):
    for split in ("train", "valid"):
        (tmp_path / f"x.{split}.txt").write_text(f"abc {split}\n")
    dataset = from_folder(tmp_path)
    assert text_of(dataset, "test") == text_of(dataset, "valid") != text_of(dataset, "train")
    assert "; test is the validation text)" in dataset.describe()


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("train.txt", "val.txt", ""),
        ("train.txt", "dev.txt", "test.txt"),
        ("x_train.txt", "x_validation.txt", "x_test.txt"),
        ("Train.txt", "Valid.txt", "TEST.TXT"),
        ("train-00.txt", "Val-00.txt", "testBooks.txt"),
        ("trainset.txt", "DevSet.tokens", "wiki.Test.tokens"),
        ("book.txt", "development.txt", "book test.txt"),
        ("constraint.txt", "", "my.testing.txt"),
    ],
)
def test_names_of_splits_in_any_case_and_place(tmp_path, train, valid, test):
    for split, name in (("train", train), ("valid", valid), ("test", test)):
        if name:
            (tmp_path / name).write_text(f"train {split}\n" * 10)
    dataset = from_folder(tmp_path, "word")
    assert "<unk>" not in text_of(dataset, "train")
    for split, name, other in (("valid", valid, "train"), ("test", test, valid and "valid")):
        if name:  # the word of its own is not in the training text
            assert text_of(dataset, split) == "train <unk>\n" * 10
            assert f"{split}: {name}" in dataset.describe()
        elif other:
            np.testing.assert_array_equal(dataset._splits[split], dataset._splits["valid"])
    assert f"(train: {train}" in dataset.describe()


def test_what_cannot_be_told_apart_is_refused(tmp_path):
    def refused(message):
        with pytest.raises(UserError, match=message) as caught:
            from_folder(tmp_path)
        assert "\n" not in str(caught.value)

    (tmp_path / "test.txt").write_text("a b\n")
    refused("but for test.txt, there is no .txt file to train on")
    (tmp_path / "train.valid.txt").write_text("a b\n")
    refused("train.valid.txt may be for train or for valid, by its name")
    (tmp_path / "train.valid.txt").rename(tmp_path / "train.valid.json")
    (tmp_path / "train.txt").write_text("a b\n" * 10)
    assert "not used: train.valid.json)" in from_folder(tmp_path).describe().replace(";", ")")


def test_files_of_a_mac_and_byte_order_marks(tmp_path):
    (tmp_path / "._book.txt").write_bytes(b"\0\5\26\7\0\2")
    (tmp_path / "book.txt").write_bytes(b"\xef\xbb\xbfabc abd\n")
    (tmp_path / "book2.txt").write_bytes(b"abc\n")
    (tmp_path / "folder.txt").mkdir()
    dataset = from_folder(tmp_path)
    assert sorted(dataset.spec.vocabulary.symbols) == sorted("\n abcd")
    assert "train: book.txt, book2.txt; not used: ._book.txt, folder.txt" in dataset.describe()
    assert "left out a byte order mark of book.txt;" in dataset.describe()
    (tmp_path / "book2.txt").write_text("abc", "utf-16-le")
    with pytest.raises(UserError, match=r"book2.txt is not text in UTF-8: it holds zero bytes"):
        from_folder(tmp_path)


def test_folders_that_hold_no_text_are_refused(tmp_path):
    def refused(folder, message, **data):
        with pytest.raises(UserError, match=message) as caught:
            from_folder(folder, **data)
        assert "\n" not in str(caught.value)

    refused("", "name a folder of .txt files .* --config.data.text_dir=DIR")
    refused(tmp_path / "nowhere", "there is no folder")
    refused(tmp_path, "no .txt file to train on in")
    (tmp_path / "a.txt").write_text("x")
    refused(tmp_path, "the train text in .* is empty")
    refused(tmp_path, "unknown data.unit 'line': use char or word", unit="line")
    (tmp_path / "a.txt").write_bytes(b"abc\xff\n")
    refused(tmp_path, "a.txt is not text in UTF-8")


# ---- Real text ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpora():
    root = os.environ.get("LRD_JAX_TEST_DATA")
    if not root:
        pytest.skip("LRD_JAX_TEST_DATA is not set: no text to read")
    return Path(root)


def test_tinyshakespeare(corpora):
    path = corpora / "char_corpora" / "tinyshakespeare_input.txt"
    dataset = from_folder(path)
    assert dataset.spec.classes == 65
    assert (dataset.eval_size("train"), dataset.eval_size("valid")) == (1_003_854, 111_540)
    assert text_of(dataset, "train") + text_of(dataset, "valid") == path.read_text()


def test_words_of_wikitext2_as_plain_files(corpora):
    dataset = from_folder(corpora / "wikitext-2", "word")
    sizes = [dataset.eval_size(split) for split in ("train", "valid", "test")]
    assert (dataset.spec.classes, sizes) == (33_278, [2_088_628, 217_646, 245_569])
