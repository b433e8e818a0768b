"""WikiText: the archive, its unpacked files, what is refused, and what a model gets to see."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from configs.base import get_config
from lrd_jax.data import make_dataset
from lrd_jax.data.builders import wikitext
from lrd_jax.data.builders.sources import SourceFile
from lrd_jax.data.builders.wikitext import LrdWikitext2, LrdWikitext103
from lrd_jax.data.prepare import main
from lrd_jax.data.vocabulary import checksum
from lrd_jax.errors import UserError

TEXTS = {
    "train": " \n = A title = \n the <unk> of the title , the end . \n",
    "valid": " the end of <unk> \n",
    "test": " a title \u2028 the end \n",  # the separator is white space, and ends no line
}


@pytest.fixture
def files(monkeypatch):
    """Makes the checksums those of some short texts."""
    sha1 = {split: hashlib.sha1(text.encode()).hexdigest() for split, text in TEXTS.items()}
    sha1["validation"] = sha1.pop("valid")
    monkeypatch.setattr(LrdWikitext2, "SHA1", sha1)
    return TEXTS


def write(folder, names="wiki.{}.tokens"):
    folder.mkdir(parents=True)
    for split, text in TEXTS.items():
        (folder / names.format(split)).write_text(text, "utf-8")


def write_archive(path, monkeypatch):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for split, text in TEXTS.items():
            archive.writestr(f"wikitext-2/wiki.{split}.tokens", text)
        archive.writestr("../outside", "never unpacked")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = SourceFile(path.name, "http://127.0.0.1:9/" + path.name, sha256=digest)
    monkeypatch.setattr(LrdWikitext2, "SOURCES", (source,))


def load(data_dir, **data):
    config = get_config()
    config.data.update(name="wikitext2", data_dir=str(data_dir), length=4, batch_size=2, **data)
    return make_dataset(config)


def check_contents(data_dir):
    dataset = load(data_dir)
    vocabulary = dataset.spec.vocabulary
    assert vocabulary.unit == "word"
    assert vocabulary.symbols[:4] == ("<eos>", "the", "=", "title")
    for split, text in TEXTS.items():
        lines = text.replace(" a ", " <unk> ").replace("\u2028", "").splitlines()
        shown = "".join(" ".join(line.split()) + "\n" for line in lines)
        assert vocabulary.decode(dataset._splits[split]) == shown


def prepare(folder, data_dir):
    return main(["wikitext2", f"--from_dir={folder}", f"--data_dir={data_dir}"])


@pytest.mark.parametrize("names", ["wiki.{}.tokens", "{}.txt"])
@pytest.mark.parametrize("inside", ["", "wikitext-2"])
def test_unpacked_files(files, tmp_path, capsys, names, inside):
    write(tmp_path / "from" / inside, names)
    assert prepare(tmp_path / "from", tmp_path / "data") == 0
    out, err = capsys.readouterr()
    assert out.endswith("train 1, validation 1, test 1 blocks of 65536 tokens\n") and err == ""
    check_contents(tmp_path / "data")


@pytest.mark.parametrize("size", [1, 4, 6])  # 18 tokens train, 6 validate, 6 test
def test_several_blocks_are_one_text(files, tmp_path, monkeypatch, size):
    monkeypatch.setattr(wikitext, "_BLOCK", size)
    write(tmp_path / "from")
    assert prepare(tmp_path / "from", tmp_path / "data") == 0
    check_contents(tmp_path / "data")


def test_the_archive_is_read_without_unpacking_it(files, tmp_path, monkeypatch):
    folder = tmp_path / "from"
    folder.mkdir()
    write_archive(folder / "wikitext-2-v1.zip", monkeypatch)
    assert prepare(folder, tmp_path / "data") == 0
    check_contents(tmp_path / "data")
    assert [path.name for path in folder.iterdir()] == ["wikitext-2-v1.zip"]
    assert not (tmp_path / "outside").exists()


def test_an_archive_packed_again_is_judged_by_its_files(files, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "from"
    folder.mkdir()
    write_archive(folder / "wikitext-2-v1.zip", monkeypatch)
    with zipfile.ZipFile(folder / "wikitext-2-v1.zip", "a") as archive:
        archive.writestr("more", "")
    assert prepare(folder, tmp_path / "data") == 0
    assert capsys.readouterr().err == ""
    check_contents(tmp_path / "data")


def test_what_is_read_back_is_checked(files, tmp_path):
    write(tmp_path / "from")
    assert prepare(tmp_path / "from", tmp_path / "data") == 0
    (path,) = (tmp_path / "data").rglob("metadata.json")
    content = json.loads(path.read_text("utf-8"))
    symbols = content["symbols"]
    for change in (
        {"symbols": symbols[::-1]},
        {"symbols": symbols[:-1]},
        {"symbols": None},
        {"symbols": symbols[:3], "symbols_sha256": checksum(symbols[:3])},
    ):
        path.write_text(json.dumps(content | change), "utf-8")
        with pytest.raises(UserError, match=r"is damaged \(its vocabulary.*\): delete it"):
            load(tmp_path / "data")
    content.pop("symbols_sha256")  # prepared by an earlier version
    path.write_text(json.dumps(content), "utf-8")
    check_contents(tmp_path / "data")
    info = path.with_name("dataset_info.json")
    described = json.loads(info.read_text("utf-8"))
    named = [s for s in described["splits"] if s["name"] != "validation"]
    info.write_text(json.dumps(described | {"splits": named}), "utf-8")
    with pytest.raises(UserError, match="it has no split 'validation'"):
        load(tmp_path / "data")
    info.write_text(json.dumps({k: v for k, v in described.items() if k != "splits"}), "utf-8")
    with pytest.raises(UserError, match=r"damaged \(it has no split 'train'\): delete it"):
        load(tmp_path / "data")


def test_a_broken_archive_does_not_hide_right_files(files, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "from"
    write(folder)
    write_archive(folder / "wikitext-2-v1.zip", monkeypatch)
    (folder / "wikitext-2-v1.zip").write_bytes(b"broken")
    assert prepare(folder, tmp_path / "data") == 0
    err = capsys.readouterr().err
    assert "wikitext-2-v1.zip has the wrong sha256" in err
    assert "the unpacked files are read instead" in err
    check_contents(tmp_path / "data")


@pytest.mark.parametrize("name", ["wikitext-2-v1.zip", "wiki.train.tokens"])
def test_a_huge_file_is_not_read(tmp_path, capsys, name):
    write(tmp_path / "from")
    with (tmp_path / "from" / name).open("wb") as file:
        file.truncate(60 * 10**9)  # sparse
    assert prepare(tmp_path / "from", tmp_path / "data") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{name} is too long: 60000000000 bytes" in err


def test_harmed_files_are_refused(files, tmp_path, capsys, monkeypatch):
    def refused(*parts):
        assert prepare(folder, tmp_path / "data") == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and all(part in err for part in parts), err

    folder = tmp_path / "from"
    write(folder)
    (folder / "wiki.valid.tokens").write_text(TEXTS["test"], "utf-8")
    refused("wiki.valid.tokens has the wrong sha1: expected", "actual")
    (folder / "wiki.valid.tokens").unlink()
    refused("lacks wikitext-2-v1.zip, or of its files wiki.valid.tokens (or valid.txt)")
    write_archive(folder / "wikitext-2-v1.zip", monkeypatch)
    content = (folder / "wikitext-2-v1.zip").read_bytes()
    (folder / "wikitext-2-v1.zip").write_bytes(content[:-1])
    refused("wikitext-2-v1.zip has the wrong sha256")


@pytest.mark.parametrize("builder", [LrdWikitext2, LrdWikitext103])
def test_without_network_the_ways_out_are_named(tmp_path, monkeypatch, builder):
    name = builder.name.removeprefix("lrd_")
    (source,) = builder.SOURCES
    dead = SourceFile(source.name, "http://127.0.0.1:9/" + source.name, source.sha256)
    monkeypatch.setattr(builder, "SOURCES", (dead,))
    config = get_config()
    config.data.update(name=name, data_dir=str(tmp_path), length=4)
    with pytest.raises(UserError, match=f"lrd_jax.data.prepare {name} --from_dir=DIR"):
        make_dataset(config)


def test_a_set_without_its_words_is_damaged(files, tmp_path):
    write(tmp_path / "from")
    assert prepare(tmp_path / "from", tmp_path / "data") == 0
    (tmp_path / "data" / "lrd_wikitext2" / "1.0.0" / "metadata.json").write_text("{}")
    with pytest.raises(UserError, match=r"damaged .*delete it"):
        load(tmp_path / "data")


@pytest.mark.slow
def test_real_wikitext2_without_tensorflow(tmp_path):
    root = os.environ.get("LRD_JAX_TEST_DATA")
    if not root:
        pytest.skip("LRD_JAX_TEST_DATA is not set: no WikiText-2 to prepare")
    assert prepare(Path(root) / "wikitext-2", tmp_path) == 0
    script = """
import sys
from configs.base import get_config
from lrd_jax.data import make_dataset
config = get_config()
config.data.update(name="wikitext2", data_dir=sys.argv[1], length=35, batch_size=20)
dataset = make_dataset(config)
print(dataset.describe())
loaded = [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "jax")]
assert not loaded, loaded
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "wikitext2: 33278 different words, 20 streams in windows of 35, "
        "train / valid / test 2088628 / 217646 / 245569\n"
    )
    words = load(tmp_path)
    as_files = get_config()
    as_files.data.update(
        name="text", text_dir=f"{root}/wikitext-2", unit="word", length=4, batch_size=2
    )
    files = make_dataset(as_files)
    assert words.spec.vocabulary == files.spec.vocabulary
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(words._splits[split], files._splits[split])
