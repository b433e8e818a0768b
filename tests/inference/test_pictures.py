"""Pictures as the models of images read them."""

import numpy as np
import pytest

from lrd_jax.config import defaults
from lrd_jax.data.images import to_sequences
from lrd_jax.errors import UserError
from lrd_jax.inference.pictures import Pictures, is_image_set, sequence_of

Image = pytest.importorskip("PIL.Image", reason="Pillow (extra captioning) is not installed")


@pytest.mark.parametrize(
    ("name", "shape", "most", "layout"),
    [
        ("digits", (8, 8, 1), 16, {"permutation": "seed:3", "pixels_per_step": 4}),
        ("mnist", (28, 28, 1), 255, {"order": "row"}),
        ("cifar10", (32, 32, 3), 255, {}),
    ],
)
def test_a_picture_is_what_the_data_set_stores(name, shape, most, layout):
    data = defaults.get_config().data
    data.update({"name": name, **layout})
    pixels = np.random.default_rng(0).integers(0, most + 1, shape).astype(np.uint8)
    drawn = np.round(pixels * (255 / most)).astype(np.uint8)
    picture = Image.fromarray(drawn[..., 0] if shape[-1] == 1 else drawn).convert("RGB")
    how = {"permutation": data.permutation, "order": data.order}
    expected = to_sequences(pixels[None], **how, pixels_per_step=data.pixels_per_step)[0]
    found = sequence_of(picture, data)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8
    # Of another size: every pixel of the small one is the mean of a block.
    large = picture.resize((shape[1] * 3, shape[0] * 3), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(sequence_of(large, data), expected)


def test_which_data_sets_are_images():
    assert is_image_set("digits") and not is_image_set("adding") and not is_image_set("text")


def test_what_is_no_picture_is_left_out_and_told(tmp_path, caplog):
    Image.new("L", (4, 4)).save(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes(b"nothing")
    with Pictures(tmp_path) as found:
        assert [name for name, _ in found] == ["b.png"]
    assert "a.png cannot be read" in caplog.text and "left out" in caplog.text
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        list(Pictures(tmp_path / "a.png"))
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match="none of the pictures"):
        list(Pictures(tmp_path))
