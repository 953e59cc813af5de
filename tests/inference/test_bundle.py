import hashlib
import json
import pickle

import numpy as np
import pytest
import torch

from pds_bids.exceptions import WeightsError
from pds_bids.imaging.grid import Grid
from pds_bids.inference.bank import Bank
from pds_bids.inference.bundle import load_bundle, save_bundle
from pds_bids.inference.card import BASELINES, CARD, SHIPPED, WEIGHTS, default_model_dir, shipped_bundle
from pds_bids.inference.prepare import Window
from pds_bids.methods import Condition, UNetMethod
from pds_bids.modalities import CONTRASTS, SOURCES, TARGETS, Contrast
from pds_bids.models.unet import UNetConfig

N = len(CONTRASTS)
GRID = Grid((10, 9, 8), np.diag([3.0, 3, 3, 1]))
WINDOW = Window((1, 1, 0), (8, 8, 8))


def make_method():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    method = UNetMethod(UNetConfig((8, 8, 8), 1, 8), WINDOW.shape)
    with torch.no_grad():
        for tensor in (*method.parameters(), *method.buffers()):
            # Values that float16 holds exactly, so that a round trip must be exact.
            tensor.copy_(torch.randn(tensor.shape).mul(16).round().div(64))
    return method.eval()


def make_bank():
    rng = np.random.default_rng(0)
    mask = rng.random(GRID.shape) > 0.5
    images = rng.random((2, 4, N, *GRID.shape)) * np.arange(1, N + 1)[:, None, None, None]
    return Bank.from_images(mask, images[0], images[1], images[1].mean(0)), mask, images


@pytest.fixture
def folder(tmp_path):
    save_bundle(
        tmp_path / "bundle",
        make_method(),
        {"name": "toy"},
        grid=GRID,
        window=WINDOW,
        data_range=dict.fromkeys(CONTRASTS, 2.0),
        bank=make_bank()[0],
    )
    return tmp_path / "bundle"


def test_round_trip_gives_the_same_bits(folder):
    method, bundle = make_method(), load_bundle(folder)
    generator = torch.Generator().manual_seed(0)
    source, template = (torch.rand(1, n, *WINDOW.shape, generator=generator) for n in (N, 4))
    condition = Condition(
        source, torch.ones(1, N), template, torch.ones(1, 1, *WINDOW.shape), torch.tensor([0])
    )
    expected, found = (m.sample(condition, [torch.Generator()]) for m in (method, bundle.method))
    assert torch.equal(expected.mean, found.mean)
    assert torch.equal(expected.std, found.std)
    assert (bundle.grid, bundle.window, bundle.card["name"]) == (GRID, WINDOW, "toy")


def test_a_card_may_come_from_another_bundle(folder, tmp_path):
    """Checksums are those of the files that are written, whatever the card said before."""
    first = load_bundle(folder)
    first.method.calibration.fill_(3)
    card = first.card | {"name": "again"}
    save_bundle(tmp_path, first.method, card, grid=GRID, window=WINDOW, data_range=first.data_range)
    again = load_bundle(tmp_path)
    assert again.card["name"] == "again"
    assert again.weights_sha256 != first.weights_sha256
    assert float(again.method.calibration[0]) == 3


def test_bank_round_trip_within_half_a_level(folder):
    _, mask, images = make_bank()
    bank = load_bundle(folder).bank
    np.testing.assert_array_equal(bank.mask, mask)
    for is_source, group, stored in ((True, SOURCES, images[0]), (False, TARGETS, images[1])):
        for contrast in group:
            channel = CONTRASTS.index(contrast)
            expected = np.minimum(stored[1, channel][mask], 255 * bank.unit[channel])
            found = bank.person(1, contrast, is_source=is_source)
            np.testing.assert_allclose(found, expected, atol=bank.unit.max() / 1.9)
    written = [CONTRASTS.index(contrast) for contrast in TARGETS]
    atlas = images[1].mean(0)[written][:, mask]
    np.testing.assert_allclose(bank.volume(bank.atlas)[:, mask], atlas, atol=4e-3)


def test_a_person_without_an_image_teaches_nothing_about_it():
    rng = np.random.default_rng(0)
    mask = np.ones((4, 4, 4), bool)
    images = rng.random((3, N, *mask.shape))
    has = np.ones((3, N), bool)
    has[1, CONTRASTS.index(Contrast.FA)] = False
    bank = Bank.from_images(mask, images, images, images[0], np.ones((3, N), bool), has)
    assert bank.people_with((Contrast.BOLD,), (Contrast.FA,)).tolist() == [0, 2]
    assert bank.people_with((Contrast.BOLD,), (Contrast.MD,)).tolist() == [0, 1, 2]


def change_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def replace_by_pickle(path):
    path.write_bytes(pickle.dumps({"weight": [1.0]}))


def replace_by_torch_file(path):
    torch.save({"weight": torch.ones(2)}, path)


SPOILS = {
    change_byte: "SHA-256",
    truncate: "truncated or altered",
    replace_by_pickle: "pickled",
    replace_by_torch_file: "pickled",
}


@pytest.mark.parametrize(("spoil", "message"), SPOILS.items(), ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("name", [WEIGHTS, BASELINES])
def test_spoiled_files_are_refused(folder, name, spoil, message):
    spoil(folder / name)
    with pytest.raises(WeightsError, match=message):
        load_bundle(folder).bank  # noqa: B018 - reading the bank is what is tested


def edit_card(folder, **fields):
    path = folder / CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


CARDS = {
    "format": (99, "format 99"),
    "channels": (["bold", "b0", "dwi"], "channels"),
    "method": ("gan", "not a model card"),
    "architecture": ({"widths": [8, 8, 16], "n_bottom": 1, "n_embed": 8}, "another model"),
    "window": ({"start": [5, 1, 0], "shape": [8, 8, 8]}, "reaches beyond"),
    "data_range": ({"bold": 1.0}, "not a model card"),
}


@pytest.mark.parametrize(("field", "value", "message"), [(k, *v) for k, v in CARDS.items()], ids=list(CARDS))
def test_cards_of_other_models_are_refused(folder, field, value, message):
    edit_card(folder, **{field: value})
    with pytest.raises(WeightsError, match=message):
        load_bundle(folder)


def test_missing_parts_are_named(folder, tmp_path):
    (folder / WEIGHTS).unlink()
    with pytest.raises(WeightsError, match=f"{WEIGHTS}: cannot be read"):
        load_bundle(folder)
    with pytest.raises(WeightsError, match="no such model folder"):
        load_bundle(tmp_path / "nowhere")
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "best.ckpt").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match=r"best\.ckpt: pickled weights can run code"):
        load_bundle(tmp_path / "pickles")


def test_safetensors_that_is_none_is_refused(folder):
    (folder / WEIGHTS).write_bytes(b"\xff" * 64)
    checksums = {WEIGHTS: hashlib.sha256(b"\xff" * 64).hexdigest()}
    edit_card(folder, sha256=checksums)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_bundle(folder)


@pytest.mark.parametrize("name", SHIPPED)
def test_bundles_of_the_package_are_intact(name):
    bundle = load_bundle(shipped_bundle(name))
    assert bundle.method.name == "unet"
    assert bundle.bank.mask.shape == bundle.grid.shape
    assert bundle.card["limits"]
    assert set(bundle.card["source_ranges"]) == set(SOURCES)
    assert bundle.card["training"]["command"].startswith("python benchmarks/train_default.py")
    assert bundle.card["evaluation"]["held_out_phantoms"]["n_pairs"] > 0


def test_bundles_of_the_package_are_small_enough():
    files = [path for name in SHIPPED for path in shipped_bundle(name).iterdir()]
    assert sum(path.stat().st_size for path in files) < 30e6
    assert default_model_dir() == shipped_bundle("default")
