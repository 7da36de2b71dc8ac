"""Images one after another: the bits of score_batch against the images before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from tiny import TINY, product, product_folder, tiny_weights

from musc_fast import (
    BankError,
    ImageError,
    InputError,
    MuSc,
    MuscFastWarning,
    ReferenceBank,
    score_batch,
)
from musc_fast.bank.file import Contents, save_bank
from musc_fast.bank.stream import source_of


@pytest.fixture(scope="module")
def musc(tmp_path_factory: pytest.TempPathFactory) -> MuSc:
    weights = tiny_weights(tmp_path_factory.mktemp("weights"))
    return MuSc(TINY, weights=weights, image_size=96, recipe="paper", feature_precision="fp32")


def test_each_image_against_those_before(musc: MuSc, tmp_path: Path) -> None:
    paths = product_folder(tmp_path, count=9)
    bank = musc.new_bank(capacity=6)
    found = list(musc.stream(iter(paths), bank=bank, start=4))
    assert [score.name for score in found] == [str(path) for path in paths]
    assert [score.number for score in found] == list(range(9))
    assert [score.references for score in found] == [3, 3, 3, 3, 4, 5, 6, 6, 6]
    assert bank.ids == [str(path) for path in paths[3:]]
    height, width = musc.backbone.image_size
    told = f"raw score {found[8].raw_score:.4g} against 6 references, map {height} x {width}>"
    assert repr(found[8]) == f"<StreamScore of {str(paths[8])!r}, {told}"
    each = [musc.extract([path]).tokens for path in paths]
    how = {
        "grid": musc.backbone.grid,
        "prefix_tokens": musc.backbone.prefix_tokens,
        "image_size": 96,
    }

    def joined(images: range) -> list[torch.Tensor]:
        return [torch.cat([each[k][layer] for k in images]) for layer in range(len(each[0]))]

    first = score_batch(joined(range(4)), **how)
    for k in range(4):
        assert torch.equal(found[k].anomaly_map, first.anomaly_maps[k])
        assert found[k].raw_score == float(first.raw_image_scores[k])
    for k in range(4, 9):
        one = score_batch(each[k], references=joined(range(max(0, k - 6), k)), **how)
        assert torch.equal(found[k].anomaly_map, one.anomaly_maps[0])
        assert found[k].raw_score == float(one.raw_image_scores[0])


def test_a_bank_goes_on_where_it_was(musc: MuSc, tmp_path: Path) -> None:
    paths = product_folder(tmp_path / "images", count=8)
    whole = [score.raw_score for score in musc.stream(paths, start=3)]
    bank = musc.new_bank()
    parts = [score.raw_score for score in musc.stream(paths[:5], bank=bank, start=3)]
    bank.save(tmp_path / "bank.safetensors")
    bank = ReferenceBank.load(
        tmp_path / "bank.safetensors", source=source_of(musc.extractor, musc.settings)
    )
    parts += [score.raw_score for score in musc.stream(paths[5:], bank=bank)]
    assert parts == whole
    with pytest.raises(BankError, match="bank: made for"):
        list(MuSc(musc.backbone, degrees=(1,)).stream(paths, bank=bank))
    assert [score.raw_score for score in musc.stream(tmp_path / "images", start=3)] == whole


def test_a_bank_of_another_precision_is_refused_and_of_another_engine_is_not(
    musc: MuSc, tmp_path: Path
) -> None:
    paths = product_folder(tmp_path / "images", count=5)
    bank = musc.new_bank()
    list(musc.stream(paths[:4], bank=bank, start=4))
    file = tmp_path / "bank.safetensors"
    bank.save(file)
    source = source_of(musc.extractor, musc.settings)
    assert (source["engine"], source["feature_precision"]) == (
        musc.backbone.engine,
        musc.backbone.precision,
    )
    with pytest.raises(BankError, match="feature_precision: the bank has 'fp32', now 'bf16'"):
        ReferenceBank.load(file, source={**source, "feature_precision": "bf16"})
    other = ReferenceBank.load(file, source={**source, "engine": "another"})
    other.source["engine"] = "another"
    assert len(list(musc.stream(paths[4:], bank=other))) == 1


def test_a_bank_of_an_earlier_musc_fast_goes_on_with_the_paper_s_recipe(
    musc: MuSc, tmp_path: Path
) -> None:
    """Such a file tells nothing of precision, engine and fusion: fp32 and the paper's."""
    source = source_of(musc.extractor, musc.settings)
    earlier = {
        key: value
        for key, value in source.items()
        if key not in ("engine", "feature_precision", "degree_fusion")
    }
    bank = musc.new_bank()
    list(musc.stream(product_folder(tmp_path / "images"), bank=bank, start=4))
    settings = {**bank.settings(), "source": earlier}
    del settings["degree_fusion"]
    file = tmp_path / "bank.safetensors"
    save_bank(file, Contents(settings, bank.entries, bank.added, bank.tokens(), []))
    assert ReferenceBank.load(file, source=source).scoring.degree_fusion == "scores"
    light = MuSc(musc.backbone)
    with pytest.raises(BankError, match="degree_fusion: the bank has 'scores', now 'features'"):
        ReferenceBank.load(file, source=source_of(light.extractor, light.settings))


def test_few_images_and_wrong_ones(musc: MuSc, tmp_path: Path) -> None:
    paths = product_folder(tmp_path, count=3)
    assert [score.references for score in musc.stream(paths)] == [2, 2, 2]
    assert list(musc.stream([])) == []
    with pytest.raises(InputError, match="found one and an empty bank"):
        list(musc.stream(paths[:1]))
    with pytest.raises(InputError, match="start: found 1, wanted"):
        list(musc.stream(paths, start=1))
    with pytest.raises(InputError, match="start: found 10, the bank holds at most 5"):
        list(musc.stream(paths, bank=musc.new_bank(capacity=5)))
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        list(musc.stream([*paths, tmp_path / "broken.png"], start=2))


def test_the_bank_keeps_the_white_level(musc: MuSc, tmp_path: Path) -> None:
    """Images of 12 bits: the first ones decide, and a later dark or bright one changes nothing."""
    paths = []
    for k in range(6):
        paths.append(tmp_path / f"{k}.tif")
        values = np.rint(product(k) * (4095 / 255)).astype(np.uint16)
        tifffile.imwrite(paths[k], values // (8 if k == 4 else 1), photometric="rgb")
    bank = musc.new_bank()
    with pytest.warns(MuscFastWarning, match="4095 is taken for white"):
        found = list(musc.stream(paths[:4], bank=bank, start=3))
    bank.save(tmp_path / "bank")
    source = source_of(musc.extractor, musc.settings)
    bank = ReferenceBank.load(tmp_path / "bank", source=source)
    assert bank.source["white"] == 4095
    found += musc.stream(paths[4:], bank=bank)
    given = MuSc(musc.backbone, white=4095, recipe="paper")
    assert [s.raw_score for s in given.stream(paths, start=3)] == [s.raw_score for s in found]
    assert found[4].raw_score > 2 * found[5].raw_score  # eight times darker
    tifffile.imwrite(paths[5], np.full((9, 9), 5000, np.uint16))
    with pytest.raises(ImageError, match="exceed the range from 0 to the white level 4095"):
        list(musc.stream(paths[5:], bank=bank))
    with pytest.raises(BankError, match="white: found 1023, the bank was made with 4095"):
        list(MuSc(musc.backbone, white=1023, recipe="paper").stream(paths[:1], bank=bank))
    with pytest.raises(BankError, match="white"):
        ReferenceBank.load(tmp_path / "bank", source={**source, "white": 1023})


def test_one_name_again_and_again(musc: MuSc, tmp_path: Path) -> None:
    """A camera may write every picture under one name."""
    (path,) = product_folder(tmp_path, count=1, defective=-1)
    bank = musc.new_bank()
    found = list(musc.stream([path] * 4, bank=bank, start=2))
    assert [score.name for score in found] == [str(path)] * 4
    assert bank.ids == [str(path), *(f"{path} ({k})" for k in (2, 3, 4))]
