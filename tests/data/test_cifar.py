"""CIFAR-10: the archive, its unpacked files, what is refused, and the sequences made of it."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from configs.base import get_config
from lrd_jax.data import make_dataset
from lrd_jax.data.builders import cifar
from lrd_jax.data.builders.sources import SourceFile
from lrd_jax.data.permutations import make_permutation
from lrd_jax.data.prepare import main
from lrd_jax.errors import UserError
from lrd_jax.objectives.base import encode

PER_FILE = 40  # images, in the place of 10 000
NAMES = [name for names in cifar.FILES.values() for name in names]


def file_contents(seed=0):
    """The six files, written independently of the parser: label, red, green, blue plane."""
    rng = np.random.default_rng(seed)
    contents = {}
    for name in NAMES:
        examples = rng.integers(0, 256, (PER_FILE, 3073), np.uint8)
        examples[:, 0] = rng.permutation(PER_FILE) % 10
        contents[name] = examples.tobytes()
    return contents


def archive(path, contents, folder="cifar-10-batches-bin", extra=()):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in extra:
            tar.addfile(member)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(cifar, "_NUM_EXAMPLES", PER_FILE)


@pytest.fixture
def trusted(monkeypatch):
    """Makes a file's checksum the expected one."""

    def trust(path):
        source = SourceFile(
            cifar.ARCHIVE,
            "http://127.0.0.1:9/" + cifar.ARCHIVE,  # the discard port: nobody listens
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        monkeypatch.setattr(cifar.LrdCifar10, "SOURCES", (source,))

    return trust


def write_files(folder, contents):
    folder.mkdir(parents=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)


def refused(folder, tmp_path, capsys):
    """The one line of complaint of the command line."""
    arguments = ["cifar10", f"--from_dir={folder}", f"--data_dir={tmp_path / 'refused'}"]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    assert not list((tmp_path / "refused").glob("lrd_cifar10/[!.]*"))
    return err.splitlines()[-1]


def test_a_broken_archive_does_not_hide_the_unpacked_files(small, tmp_path, capsys):
    write_files(tmp_path / "from" / cifar.FOLDER, file_contents())
    (tmp_path / "from" / cifar.ARCHIVE).write_bytes(b"broken")
    arguments = ["cifar10", f"--from_dir={tmp_path / 'from'}", f"--data_dir={tmp_path / 'data'}"]
    assert main(arguments) == 0
    err = capsys.readouterr().err
    assert f"{cifar.ARCHIVE} has the wrong sha256" in err
    assert "the unpacked files are read instead" in err


def test_a_huge_archive_is_not_read(tmp_path, capsys):
    with (tmp_path / cifar.ARCHIVE).open("wb") as file:
        file.truncate(60 * 10**9)  # sparse
    assert f"{cifar.ARCHIVE} is too long" in refused(tmp_path, tmp_path, capsys)


def expect(images, labels, contents, split):
    """Compares with the bytes at the places that the format gives them."""
    data = b"".join(contents[name] for name in cifar.FILES[split])
    for number in (0, 1, len(images) - 1):
        start = number * 3073
        assert labels[number] == data[start]
        for row, column, channel in ((0, 0, 0), (0, 1, 1), (5, 31, 2), (31, 0, 1)):
            place = start + 1 + channel * 1024 + row * 32 + column
            assert images[number, row, column, channel] == data[place]


@pytest.mark.parametrize("form", ["archive", "files", "folder"])
def test_every_form_is_read(small, trusted, tmp_path, form):
    contents, source = file_contents(), tmp_path / "source"
    if form == "archive":
        source.mkdir()
        archive(source / cifar.ARCHIVE, contents)
        trusted(source / cifar.ARCHIVE)
    else:
        write_files(source if form == "files" else source / "cifar-10-batches-bin", contents)
    examples = cifar.LrdCifar10.read(source)
    assert examples["train"][0].shape == (200, 32, 32, 3) and examples["test"][0].shape[0] == 40
    for split, (images, labels) in examples.items():
        expect(images, labels, contents, split)


def test_a_wrong_checksum_is_refused(small, tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    archive(source / cifar.ARCHIVE, file_contents())
    message = refused(source, tmp_path, capsys)
    assert f"{source / cifar.ARCHIVE} has the wrong sha256: expected c4a38c50" in message


def test_only_the_expected_members_are_read(small, trusted, tmp_path, capsys):
    """Links, devices and paths that lead elsewhere are never followed or written."""
    contents, source = file_contents(), tmp_path / "source"
    source.mkdir()
    link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    outside = tarfile.TarInfo("../outside.bin")
    path = source / cifar.ARCHIVE
    archive(path, contents, extra=[link, outside])
    trusted(path)
    before = sorted(tmp_path.rglob("*"))
    images, labels = cifar.LrdCifar10.read(source)["test"]
    expect(images, labels, contents, "test")
    assert sorted(tmp_path.rglob("*")) == before
    # Alone, the link does not stand for the file.
    del contents["test_batch.bin"]
    archive(path, contents, extra=[link, outside])
    trusted(path)
    assert "lacks test_batch.bin in the right size" in refused(source, tmp_path, capsys)


def test_members_of_another_size_are_not_read(small, trusted, tmp_path, capsys):
    contents, source = file_contents(), tmp_path / "source"
    source.mkdir()
    contents["data_batch_3.bin"] += b"x"
    archive(source / cifar.ARCHIVE, contents)
    trusted(source / cifar.ARCHIVE)
    assert "lacks data_batch_3.bin in the right size" in refused(source, tmp_path, capsys)


def test_unpacked_files_must_have_the_right_form(small, tmp_path, capsys):
    contents = file_contents()
    write_files(tmp_path / "missing", {k: v for k, v in contents.items() if k != NAMES[4]})
    message = refused(tmp_path / "missing", tmp_path, capsys)
    assert f"lacks {cifar.ARCHIVE}, or unpacked from it data_batch_5.bin" in message
    write_files(tmp_path / "short", contents | {NAMES[0]: contents[NAMES[0]][:-1]})
    message = refused(tmp_path / "short", tmp_path, capsys)
    assert "data_batch_1.bin is cut off or too long: 122919 bytes, not 122920" in message
    write_files(tmp_path / "shifted", contents | {NAMES[5]: contents[NAMES[5]][1:] + b"\0"})
    message = refused(tmp_path / "shifted", tmp_path, capsys)
    assert "the test files of CIFAR-10 are corrupt or mixed up: they count" in message


def test_a_failed_download_names_the_ways_out(small, trusted, tmp_path):
    nowhere = tmp_path / "file"
    nowhere.touch()
    trusted(nowhere)
    config = get_config()
    config.data.name, config.data.data_dir = "cifar10", str(tmp_path / "data")
    with pytest.raises(UserError, match="prepare cifar10 --from_dir=DIR"):
        make_dataset(config)


def test_from_files_to_sequences(small, tmp_path, capsys):
    contents = file_contents()
    write_files(tmp_path / "source", contents)
    data_dir = tmp_path / "data"
    assert main(["cifar10", f"--from_dir={tmp_path / 'source'}", f"--data_dir={data_dir}"]) == 0
    out, err = capsys.readouterr()
    assert "train 200, test 40" in out and "not verified" in err

    config = get_config()
    config.data.name, config.data.data_dir = "cifar10", str(data_dir)
    config.data.valid_split = "last:50"
    dataset = make_dataset(config)
    assert (dataset.spec.length, dataset.spec.features, dataset.spec.classes) == (1024, 3, 10)
    sizes = [dataset.eval_size(split) for split in ("train", "valid", "test")]
    assert sizes == [150, 50, 40]  # ORC-30 in small
    train = np.frombuffer(b"".join(contents[n] for n in cifar.FILES["train"]), np.uint8)
    train = train.reshape(200, 3073)
    valid = next(dataset.eval_batches("valid", 50))
    np.testing.assert_array_equal(valid["targets"], train[150:, 0])
    inputs = train[150:, 1:].reshape(50, 3, 1024).transpose(0, 2, 1)
    np.testing.assert_array_equal(valid["inputs"], inputs)
    np.testing.assert_allclose(encode(inputs, dataset.spec), inputs / 255, rtol=1e-6)

    # Mean and deviation belong to a channel, whatever stands together in a step.
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.247, 0.243, 0.261])
    expected = (inputs / 255 - mean) / std
    config.data.normalise = True
    for changes, shape in (
        ({}, (1024, 3)),
        ({"pixels_per_step": 4}, (256, 12)),
        ({"order": "row"}, (32, 96)),
    ):
        changed = config.copy_and_resolve_references()
        changed.data.update(changes)
        dataset = make_dataset(changed)
        got = encode(next(dataset.eval_batches("valid", 50))["inputs"], dataset.spec)
        np.testing.assert_allclose(got, expected.reshape(50, *shape), rtol=1e-4, atol=1e-5)

    # ORC-28: the permutation moves pixels, the channels of one stay together.
    config.data.permutation = "92916"
    dataset = make_dataset(config)
    got = next(dataset.eval_batches("valid", 50))["inputs"]
    p = make_permutation("92916", 1024)
    assert p[:3].tolist() == [201, 389, 485]
    np.testing.assert_array_equal(got, inputs[:, p])


def test_normalise_needs_published_numbers():
    config = get_config()
    config.data.normalise = True
    with pytest.raises(UserError, match="no published mean and deviation for digits"):
        make_dataset(config)


def test_split_of_the_gating_experiments():
    # ORC-30
    from lrd_jax.data.images import split_examples

    train, valid = split_examples(50_000, "last:5000")
    assert (train, valid) == (slice(0, 45_000), slice(45_000, 50_000))


@pytest.mark.slow
def test_real_images(monkeypatch, tmp_path):
    """Everything behind the archive on 4 000 real training images, kept as sheets of pictures."""
    root = os.environ.get("LRD_JAX_TEST_DATA")
    if not root:
        pytest.skip("LRD_JAX_TEST_DATA is not set: no CIFAR-10 images")
    image = pytest.importorskip("PIL.Image")
    folder = Path(root) / "cifar10_png_first4000"
    sheets = [np.asarray(image.open(folder / f"cifar10_batch_{n}.png")) for n in range(4)]
    pixels = np.concatenate(sheets)[..., :3]  # (4000, 1024, 3), row-major
    labels = np.loadtxt(folder / "labels_first4000.txt", dtype=np.uint8)
    assert pixels.shape == (4000, 1024, 3)
    # As many of each class, as the parser wants: the first 360 of each, in files of 600.
    keep = np.sort(np.concatenate([np.flatnonzero(labels == c)[:360] for c in range(10)]))
    test = np.sort(np.concatenate([keep[labels[keep] == c][:60] for c in range(10)]))
    order = np.concatenate([np.setdiff1d(keep, test), test])
    planes = pixels[order].transpose(0, 2, 1).reshape(len(order), 3072)
    records = np.concatenate([labels[order][:, None], planes], axis=1).reshape(6, 600, 3073)
    monkeypatch.setattr(cifar, "_NUM_EXAMPLES", 600)
    contents = {name: part.tobytes() for name, part in zip(NAMES, records, strict=True)}
    write_files(tmp_path / "source", contents)
    data_dir = tmp_path / "data"
    assert main(["cifar10", f"--from_dir={tmp_path / 'source'}", f"--data_dir={data_dir}"]) == 0

    config = get_config()
    config.data.name, config.data.data_dir = "cifar10", str(data_dir)
    config.data.valid_split, config.data.normalise = "last:500", True
    dataset = make_dataset(config)
    assert [dataset.eval_size(s) for s in ("train", "valid", "test")] == [2500, 500, 600]
    batch = next(dataset.eval_batches("test", 600))
    np.testing.assert_array_equal(batch["inputs"], pixels[test])
    np.testing.assert_array_equal(batch["targets"], labels[test])
    network_inputs = np.asarray(encode(batch["inputs"], dataset.spec))
    # The published mean and deviation fit: a wrong channel order would be off by 0.1 and more.
    assert abs(network_inputs.mean(axis=(0, 1))).max() < 0.1
    assert abs(network_inputs.std(axis=(0, 1)) - 1).max() < 0.1
