"""Preparing data sets: from files, by download, by the command line, and what can go wrong."""

import dataclasses
import functools
import gzip
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs.base import get_config
from lrd_jax.data import make_dataset
from lrd_jax.data.builders import mnist
from lrd_jax.data.builders.digits import LrdDigits
from lrd_jax.data.prepare import is_prepared, main, open_builder, prepare
from lrd_jax.errors import RunError, UserError

NAMES = [source.name for source in mnist.LrdMnist.SOURCES]


def run_python(*arguments, env=None):
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def unpack(folder, to):
    to.mkdir()
    for name in NAMES:
        (to / name.removesuffix(".gz")).write_bytes(gzip.decompress((folder / name).read_bytes()))
    return to


def expect_error(capsys, arguments, *parts):
    """Runs the command line in this process and checks its one line of complaint."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err


def expect_prepared(data_dir, name="mnist"):
    builder = open_builder(name, data_dir)
    assert is_prepared(builder)
    assert builder.info.splits["train"].num_examples == 100
    assert builder.info.splits["test"].num_examples == 20
    return builder


@pytest.mark.parametrize("packed", [True, False])
def test_verified_files(small_mnist, tmp_path, capsys, packed):
    folder = small_mnist if packed else unpack(small_mnist, tmp_path / "unpacked")
    data_dir = tmp_path / "data"
    arguments = ["mnist", f"--from_dir={folder}", f"--data_dir={data_dir}"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == f"mnist is prepared in {data_dir}/lrd_mnist/1.0.0: train 100, test 20\n"
    assert "not verified" not in err
    builder = expect_prepared(data_dir)
    images = mnist.LrdMnist.read(folder)["train"][0]
    stored = builder.as_data_source(split="train")
    np.testing.assert_array_equal([record["image"] for record in stored], images)
    assert main(arguments) == 0
    assert "mnist was already prepared in" in capsys.readouterr().out


def test_names_of_other_archives(small_mnist, tmp_path):
    folder = unpack(small_mnist, tmp_path / "unpacked")
    for path in folder.iterdir():
        path.rename(folder / path.name.replace("-idx", ".idx"))
    prepare("mnist", tmp_path / "data", folder)
    expect_prepared(tmp_path / "data")


def test_fashion_mnist_unpacked_is_checked_by_its_contents(small_mnist, tmp_path, capsys):
    folder = unpack(small_mnist, tmp_path / "unpacked")
    arguments = ["fashion_mnist", f"--from_dir={folder}", f"--data_dir={tmp_path / 'data'}"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "fashion_mnist is prepared in" in out
    for name in NAMES:
        assert f"{name.removesuffix('.gz')}: not verified" in err
    expect_prepared(tmp_path / "data", "fashion_mnist")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("harm", ["truncate", "corrupt", "empty"])
def test_harmed_files_are_refused(small_mnist, tmp_path, capsys, name, packed, harm):
    folder = small_mnist if packed else unpack(small_mnist, tmp_path / "unpacked")
    path = folder / (name if packed else name.removesuffix(".gz"))
    data = bytearray(path.read_bytes())
    if harm == "corrupt":
        data[len(data) // 2] ^= 1
    path.write_bytes({"truncate": data[:-1], "corrupt": data, "empty": b""}[harm])
    expect_error(
        capsys,
        ["mnist", f"--from_dir={folder}", f"--data_dir={tmp_path / 'data'}"],
        f"{path} has the wrong sha256: expected",
        "actual",
    )
    assert not is_prepared(open_builder("mnist", tmp_path / "data"))
    assert not list((tmp_path / "data" / "lrd_mnist").glob("[!.]*"))


@pytest.mark.parametrize("level", [0, 1])
def test_what_was_packed_again_is_judged_by_its_contents(small_mnist, tmp_path, capsys, level):
    for name in NAMES:
        contents = gzip.decompress((small_mnist / name).read_bytes())
        (small_mnist / name).write_bytes(gzip.compress(contents, level, mtime=1))
    assert main(["mnist", f"--from_dir={small_mnist}", f"--data_dir={tmp_path / 'data'}"]) == 0
    assert capsys.readouterr().err == ""
    expect_prepared(tmp_path / "data")
    data_dir = f"--data_dir={tmp_path / 'fashion'}"  # of which only the packed checksum is known
    hint = "if it was only packed again, unpack it"
    expect_error(capsys, ["fashion_mnist", f"--from_dir={small_mnist}", data_dir], hint)
    images = gzip.decompress((small_mnist / mnist.TRAIN_IMAGES).read_bytes())
    (small_mnist / mnist.TRAIN_IMAGES).write_bytes(gzip.compress(images[:-1], level))
    data_dir = f"--data_dir={tmp_path / 'other'}"
    expect_error(capsys, ["mnist", f"--from_dir={small_mnist}", data_dir], "has the wrong sha256")


def test_a_broken_archive_does_not_hide_the_right_file(small_mnist, tmp_path, capsys):
    unpack(small_mnist, tmp_path / "unpacked")
    for path in (tmp_path / "unpacked").iterdir():
        shutil.copy(path, small_mnist)
    for name in NAMES:
        (small_mnist / name).write_bytes(b"broken")
    assert main(["mnist", f"--from_dir={small_mnist}", f"--data_dir={tmp_path / 'data'}"]) == 0
    err = capsys.readouterr().err
    for name in NAMES:
        assert f"{name} has the wrong sha256" in err
        assert f"{name.removesuffix('.gz')} is read instead" in err
    expect_prepared(tmp_path / "data")


@pytest.mark.parametrize("packed", [True, False])
def test_a_huge_file_is_not_read(small_mnist, tmp_path, capsys, packed):
    folder = small_mnist if packed else unpack(small_mnist, tmp_path / "unpacked")
    for builder in ("mnist", "fashion_mnist"):
        path = folder / (NAMES[0] if packed else NAMES[0].removesuffix(".gz"))
        os.truncate(path, 60 * 10**9)  # sparse
        arguments = [builder, f"--from_dir={folder}", f"--data_dir={tmp_path / 'data'}"]
        expect_error(capsys, arguments, f"{path} is too long: 60000000000 bytes")


def test_an_archive_that_unpacks_to_more_than_it_may_is_not_unpacked(small_mnist, tmp_path, capsys):
    with gzip.open(small_mnist / NAMES[0], "wb", 1) as file:
        for _ in range(50):
            file.write(bytes(10**6))
    arguments = ["mnist", f"--from_dir={small_mnist}", f"--data_dir={tmp_path / 'data'}"]
    expect_error(capsys, arguments, f"{NAMES[0]} has the wrong sha256")


def test_swapped_files_are_told(small_mnist, tmp_path, capsys):
    train, test = small_mnist / mnist.TRAIN_LABELS, small_mnist / mnist.TEST_LABELS
    shutil.copy(train, test)
    arguments = ["mnist", f"--from_dir={small_mnist}", f"--data_dir={tmp_path / 'data'}"]
    expect_error(
        capsys, arguments, f"{test} has the wrong", f"it holds the contents of {train.name}"
    )


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (mnist.TRAIN_IMAGES, lambda data: data[:-1], "cut off or too long: 78415 bytes, not 78416"),
        (mnist.TRAIN_IMAGES, lambda data: data + b"x", "cut off or too long"),
        (mnist.TRAIN_IMAGES, lambda data: data[:10], "has the dimensions (100,), not"),
        (mnist.TRAIN_IMAGES, lambda data: b"", "is not an idx file of 3-dimensional bytes"),
        (mnist.TEST_LABELS, lambda data: b"PK" + data, "is not an idx file of 1-dimensional"),
        (mnist.TEST_LABELS, lambda data: data[:-1] + b"\x0a", "is corrupt: it counts"),
        (mnist.TEST_LABELS, lambda data: data[:8] + b"\x03" * 20, "is corrupt: it counts"),
    ],
)
def test_unverified_files_must_have_the_right_form(small_mnist, tmp_path, name, change, message):
    folder = unpack(small_mnist, tmp_path / "unpacked")
    path = folder / name.removesuffix(".gz")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        prepare("fashion_mnist", tmp_path / "data", folder)
    assert message in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [(mnist.TRAIN_IMAGES, mnist.TEST_IMAGES), (mnist.TRAIN_LABELS, mnist.TRAIN_IMAGES)],
)
def test_unverified_files_that_are_swapped(small_mnist, tmp_path, first, second):
    folder = unpack(small_mnist, tmp_path / "unpacked")
    paths = [folder / name.removesuffix(".gz") for name in (first, second)]
    data = [path.read_bytes() for path in paths]
    paths[0].write_bytes(data[1])
    paths[1].write_bytes(data[0])
    with pytest.raises(UserError, match="dimension"):
        prepare("fashion_mnist", tmp_path / "data", folder)


def test_bad_arguments(small_mnist, tmp_path, capsys):
    data_dir = f"--data_dir={tmp_path / 'data'}"
    expect_error(
        capsys,
        ["mnits", data_dir],
        "unknown data set 'mnits': did you mean mnist?",
        "digits, fashion_mnist, mnist",
    )
    nowhere = tmp_path / "nowhere"
    expect_error(
        capsys, ["mnist", f"--from_dir={nowhere}", data_dir], f"there is no directory {nowhere}"
    )
    (small_mnist / mnist.TEST_LABELS).unlink()
    expect_error(
        capsys, ["mnist", f"--from_dir={small_mnist}", data_dir], f"lacks {mnist.TEST_LABELS} (as"
    )
    expect_error(capsys, ["digits", f"--from_dir={small_mnist}", data_dir], "leave out --from_dir")
    blocker = tmp_path / "file"
    blocker.touch()
    expect_error(
        capsys,
        ["mnist", f"--from_dir={small_mnist}", f"--data_dir={blocker / 'below'}"],
        "cannot write to",
        "choose another data_dir",
    )


def test_training_downloads_what_it_needs(small_mnist, tmp_path, monkeypatch):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(Handler, directory=str(small_mnist))
    config = get_config()
    config.data.update(name="mnist", data_dir=str(tmp_path / "data"), valid_split="last:30")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        sources = [dataclasses.replace(s, url=address + s.name) for s in mnist.LrdMnist.SOURCES]
        monkeypatch.setattr(mnist.LrdMnist, "SOURCES", tuple(sources))
        dataset = make_dataset(config)
        server.shutdown()
        thread.join()
    assert [dataset.eval_size(s) for s in ("train", "valid", "test")] == [70, 30, 20]
    images, labels = mnist.LrdMnist.read(small_mnist)["train"]
    valid = next(dataset.eval_batches("valid", 30))
    np.testing.assert_array_equal(valid["inputs"], images[70:].reshape(30, 784, 1))
    np.testing.assert_array_equal(valid["targets"], labels[70:])
    assert make_dataset(config).num_train == 70  # prepared: the server is gone


def test_without_network_the_ways_out_are_named(small_mnist, tmp_path):
    config = get_config()
    config.data.update(name="mnist", data_dir=str(tmp_path / "data"))
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        make_dataset(config)
    assert time.perf_counter() - start < 5
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "mnist is not prepared in",
        "--config=configs/urlstm_pdigits.py",
        "python -m lrd_jax.data.prepare mnist --from_dir=DIR",
        "--config.data.data_dir=DIR",
    ):
        assert part in message


def test_command_line_without_network(tmp_path):
    dead = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    dead |= {name.lower(): value for name, value in dead.items()} | {"NO_PROXY": "", "no_proxy": ""}
    arguments = ["-m", "lrd_jax.data.prepare", "fashion_mnist", f"--data_dir={tmp_path}"]
    done = run_python(*arguments, env=dead)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "error: fashion_mnist is not prepared" in done.stderr


def test_a_killed_run_leaves_nothing_that_looks_prepared(tmp_path):
    script = """
import os, signal, sys
from lrd_jax.data import prepare
from lrd_jax.data.builders.digits import LrdDigits
generate = LrdDigits._generate_examples
def killed(self, images, labels):
    for number, example in generate(self, images, labels):
        if number == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        yield number, example
LrdDigits._generate_examples = killed
prepare.prepare("digits", sys.argv[1])
"""
    done = run_python("-c", script, str(tmp_path))
    assert done.returncode == -9, done.stderr
    folder = tmp_path / "lrd_digits"
    assert list(folder.glob("incomplete.*"))
    assert not is_prepared(open_builder("digits", tmp_path))
    builder = prepare("digits", tmp_path)
    assert is_prepared(builder)
    assert not list(folder.glob("incomplete.*"))
    assert builder.info.splits["train"].num_examples == 1297


def test_an_incomplete_folder_is_not_taken_for_a_data_set(tmp_path):
    builder = prepare("digits", tmp_path)
    (builder.data_path / "dataset_info.json").unlink()
    with pytest.raises(UserError, match=r"damaged \(it is not complete\): delete it"):
        prepare("digits", tmp_path)


def test_a_corrupt_description_is_damage(tmp_path):
    builder = prepare("digits", tmp_path)
    (builder.data_path / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=r"damaged .*: delete it"):
        prepare("digits", tmp_path)


def test_two_processes_prepare_once(tmp_path):
    command = [sys.executable, "-m", "lrd_jax.data.prepare", "digits", f"--data_dir={tmp_path}"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert errors == ["", ""]
    assert [process.returncode for process in both] == [0, 0]


def test_digits_without_tensorflow_quietly(tmp_path):
    script = """
import sys
from configs.base import get_config
from lrd_jax.data import make_dataset
config = get_config()
config.data.data_dir = sys.argv[1]
batch = make_dataset(config).train_batch(0, 0, slice(0, 4))
assert batch["inputs"].shape == (4, 64, 1)
loaded = [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "jax")]
assert not loaded, loaded
"""
    done = run_python("-W", "error", "-c", script, str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_stock_builders_stay_out_of_the_way(tmp_path):
    # A stock mnist of the same version in the same folder is neither read nor overwritten.
    stock = tmp_path / "mnist" / "1.0.0"
    stock.mkdir(parents=True)
    (stock / "dataset_info.json").write_text("stock")
    assert not is_prepared(open_builder("mnist", tmp_path))
    registered = tfds.core.registered.list_imported_builders()
    assert {"lrd_mnist", "lrd_fashion_mnist", "lrd_digits"} <= set(registered)
    assert "digits" not in registered


@pytest.mark.slow
def test_mnist_again_and_unpacked(mnist_files, mnist_dir, tmp_path, capsys):
    assert main(["mnist", f"--data_dir={mnist_dir}"]) == 0
    assert "was already prepared" in capsys.readouterr().out
    packed = mnist.LrdMnist.read(mnist_files)
    unpacked = mnist.LrdMnist.read(unpack(mnist_files, tmp_path / "unpacked"))
    assert "not verified" not in capsys.readouterr().err
    for split in ("train", "test"):
        for a, b in zip(packed[split], unpacked[split], strict=True):
            np.testing.assert_array_equal(a, b)
    (tmp_path / "unpacked" / "t10k-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(UserError, match="has the wrong sha256"):
        mnist.LrdMnist.read(tmp_path / "unpacked")


def test_a_disk_that_is_full_is_told(tmp_path, monkeypatch):
    """ArrayRecord tells it as a RuntimeError; others of a kind are faults of their own."""
    said = "Failed to finalize writing: write() failed: No space left on device; at byte 20480"

    def end(*_, **__):
        raise RuntimeError(said)

    monkeypatch.setattr(LrdDigits, "download_and_prepare", end)
    with pytest.raises(RunError, match=r"preparing digits in .* failed: .*No space left on device"):
        prepare("digits", tmp_path)
    said = "no such thing"
    with pytest.raises(RuntimeError, match=said):
        prepare("digits", tmp_path)
