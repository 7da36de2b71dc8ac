"""The layout of MVTec AD and its kin: every image is read or named, and has its own mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import draw, mvtec_tree, summary

from musc_fast.datasets.layouts import load_dataset, load_mvtec, sample_mask, verify
from musc_fast.errors import ImageError, InputError, MuscFastWarning

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


class TestMVTec:
    def test_categories_labels_and_masks(self, tmp_path: Path) -> None:
        bottle, screw = load_mvtec(mvtec_tree(tmp_path))
        assert (bottle.name, screw.name) == ("bottle", "screw")
        assert summary(bottle, tmp_path) == [
            ("bottle/test/broken/2.png", True, "broken", "bottle/ground_truth/broken/2_mask.png"),
            ("bottle/test/broken/10.png", True, "broken", "bottle/ground_truth/broken/10_mask.png"),
            ("bottle/test/good/000.png", False, "good", None),
        ]
        assert [int(np.argmax(sample_mask(s)[0])) for s in bottle.samples[:2]] == [2, 1]

    def test_root_may_be_one_category(self, tmp_path: Path) -> None:
        (bottle,) = load_mvtec(mvtec_tree(tmp_path) / "bottle")
        assert bottle == load_mvtec(tmp_path, ["bottle"])[0]

    def test_chosen_categories_keep_their_order(self, tmp_path: Path) -> None:
        mvtec_tree(tmp_path)
        chosen = load_mvtec(str(tmp_path), ["screw", "bottle", "screw"])
        assert [category.name for category in chosen] == ["screw", "bottle"]
        with pytest.raises(InputError, match="unknown category cable; known are bottle, screw"):
            load_mvtec(tmp_path, ["bottle", "cable"])

    def test_a_missing_mask_names_both_files(self, tmp_path: Path) -> None:
        root = mvtec_tree(tmp_path)
        (root / "bottle/ground_truth/broken/2_mask.png").unlink()
        with pytest.raises(
            ImageError,
            match=r"test/broken/2\.png: its mask is missing .*ground_truth/broken/2_mask\.png",
        ):
            load_mvtec(root)
        assert [s.mask for s in load_mvtec(root, masks=False)[0].samples] == [None] * 3

    def test_no_ground_truth_at_all(self, tmp_path: Path) -> None:
        draw(tmp_path / "test/bad/a.png")
        draw(tmp_path / "test/good/b.png")
        (category,) = load_mvtec(tmp_path)
        assert summary(category, tmp_path) == [
            ("test/bad/a.png", True, "bad", None),
            ("test/good/b.png", False, "good", None),
        ]
        assert load_mvtec(tmp_path, masks=False) == [category]
        with pytest.raises(InputError, match=r"a\.png: no mask is known"):
            sample_mask(category.samples[0])

    def test_several_masks_are_ambiguous(self, tmp_path: Path) -> None:
        root = mvtec_tree(tmp_path)
        draw(root / "bottle/ground_truth/broken/2.png", spot=0)
        with pytest.raises(ImageError, match=r"2\.png: has several masks: .*2\.png, .*2_mask\.png"):
            load_mvtec(root)

    def test_one_mask_for_two_images_is_refused(self, tmp_path: Path) -> None:
        root = mvtec_tree(tmp_path)
        draw(root / "bottle/test/broken/2.bmp")
        with pytest.raises(ImageError, match=r"2_mask\.png: is the mask of both .*bmp and .*png"):
            load_mvtec(root)

    def test_a_mask_of_another_size_names_both_files(self, tmp_path: Path) -> None:
        root = mvtec_tree(tmp_path)
        draw(root / "bottle/ground_truth/broken/2_mask.png", size=(6, 9), spot=0)
        categories = load_mvtec(root)
        message = r"2_mask\.png: mask is 9 x 6, but its image .*2\.png is 8 x 6; save both"
        with pytest.raises(ImageError, match=message):
            verify(categories)
        with pytest.raises(ImageError, match=message):
            sample_mask(categories[0].samples[0], (3, 4))

    def test_verify_lists_every_problem(self, tmp_path: Path) -> None:
        root = mvtec_tree(tmp_path)
        verify(load_mvtec(root))
        (root / "bottle/test/good/000.png").write_text("no image")
        (root / "bottle/ground_truth/broken/10_mask.png").write_bytes(b"")
        with pytest.raises(ImageError) as caught:
            verify(load_mvtec(root))
        first, second = str(caught.value).splitlines()
        assert "10_mask.png: not an image" in first
        assert "good/000.png: not an image" in second

    def test_btad_form(self, tmp_path: Path) -> None:
        draw(tmp_path / "01/test/ok/0000.bmp")
        draw(tmp_path / "01/test/ko/0001.bmp")
        draw(tmp_path / "01/ground_truth/ko/0001.png", spot=1)
        draw(tmp_path / "01/ground_truth/ok/0000.png", spot=0)
        draw(tmp_path / "03/test/ko/0005.bmp")
        draw(tmp_path / "03/ground_truth/ko/0005.bmp", spot=1)
        with pytest.warns(MuscFastWarning, match="03/test: no folder of normal images"):
            first, third = load_dataset("btad", tmp_path)
        assert summary(first, tmp_path) == [
            ("01/test/ko/0001.bmp", True, "ko", "01/ground_truth/ko/0001.png"),
            ("01/test/ok/0000.bmp", False, "ok", None),
        ]
        assert summary(third, tmp_path) == [
            ("03/test/ko/0005.bmp", True, "ko", "03/ground_truth/ko/0005.bmp")
        ]
        assert not sample_mask(first.samples[1]).any()

    def test_loco_form_takes_the_union_of_an_images_masks(self, tmp_path: Path) -> None:
        root = tmp_path / "juice_bottle"
        for kind in ("logical_anomalies", "structural_anomalies"):
            draw(root / f"test/{kind}/000.png")
            draw(root / f"ground_truth/{kind}/000/000.png", spot=1)
        draw(root / "ground_truth/logical_anomalies/000/001.png", spot=3)
        draw(root / "test/good/000.png")
        (category,) = load_mvtec(tmp_path)
        verify([category])
        assert [(s.defect, s.label) for s in category.samples] == [
            ("good", False),
            ("logical_anomalies", True),
            ("structural_anomalies", True),
        ]
        logical, structural = category.samples[1:]
        assert np.flatnonzero(sample_mask(logical)[0]).tolist() == [1, 3]
        assert np.flatnonzero(sample_mask(structural)[0]).tolist() == [1]
        draw(root / "ground_truth/logical_anomalies/000/002.png", size=(2, 2), spot=0)
        with pytest.raises(ImageError, match=r"002\.png: mask is 2 x 2, but its image .*000\.png"):
            verify([category])

    def test_other_folders_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="no MVTec layout here"):
            load_mvtec(tmp_path)
        with pytest.raises(ImageError, match="absent: no such folder"):
            load_mvtec(tmp_path / "absent")
        draw(tmp_path / "test/loose.png")
        with pytest.raises(ImageError, match="test: no images in its folders"):
            load_mvtec(tmp_path)

    @pytest.mark.parametrize(
        ("name", "good", "defective"), [("mpdd_metal_plate", 40, 40), ("kolektorsdd", 60, 52)]
    )
    def test_real_data(self, name: str, good: int, defective: int) -> None:
        if not (DATA / name).is_dir():
            pytest.skip(f"{DATA / name} is not at hand")
        (category,) = load_mvtec(DATA / name)
        assert category.name == name
        assert sum(s.label is False for s in category.samples) == good
        assert sum(s.label is True for s in category.samples) == defective
        verify([category])
        for sample in category.samples:
            assert (sample.mask is not None) == sample.label
            if sample.mask is not None:
                assert sample.mask.stem == f"{sample.image.stem}_mask"
                assert sample_mask(sample).any()


class TestNames:
    @pytest.mark.parametrize("name", ["OK", "Good", "NORMAL", "normal", "good", "defect_free"])
    def test_normal_in_any_case(self, tmp_path: Path, name: str) -> None:
        draw(tmp_path / f"test/{name}/a.png")
        draw(tmp_path / "test/NG/b.png")
        draw(tmp_path / "test/bad_unseen_defects/c.png")
        (category,) = load_mvtec(tmp_path)
        found = {(sample.defect, sample.label) for sample in category.samples}
        assert found == {(name, False), ("NG", True), ("bad_unseen_defects", True)}

    def test_no_normal_folder_is_said(self, tmp_path: Path) -> None:
        draw(tmp_path / "test/gut/a.png")
        draw(tmp_path / "test/kaputt/a.png")
        with pytest.warns(MuscFastWarning, match=r"no folder of normal images .* gut, kaputt"):
            load_mvtec(tmp_path)

    @pytest.mark.parametrize("ending", ["_MASK.png", "_Label.bmp", "-gt.PNG", ".tif", "_GT.png"])
    def test_mask_endings_in_any_case(self, tmp_path: Path, ending: str) -> None:
        draw(tmp_path / "test/good/a.png")
        draw(tmp_path / "test/hole/Img1.png")
        draw(tmp_path / f"Ground_Truth/hole/img1{ending}", spot=3)
        (category,) = load_mvtec(tmp_path)
        assert np.flatnonzero(sample_mask(category.samples[1])[0]).tolist() == [3]

    def test_numbered_masks_are_united(self, tmp_path: Path) -> None:
        """AITEX has 0044_019_04_mask1.png and 0044_019_04_mask2.png of one image."""
        draw(tmp_path / "test/good/a.png")
        draw(tmp_path / "test/hole/0044_019_04.png")
        for number, spot in ((1, 2), (2, 5)):
            draw(tmp_path / f"ground_truth/hole/0044_019_04_mask{number}.png", spot=spot)
        (category,) = load_mvtec(tmp_path)
        verify([category])
        sample = category.samples[1]
        assert len(sample.mask_files) == 2
        assert np.flatnonzero(sample_mask(sample)[0]).tolist() == [2, 5]
        draw(tmp_path / "ground_truth/hole/0044_019_04_mask2.png", size=(3, 3), spot=1)
        with pytest.raises(ImageError, match=r"mask2\.png: mask is 3 x 3, but its image"):
            verify(load_mvtec(tmp_path))

    def test_palette_and_grey_labels_in_one_set(self, tmp_path: Path) -> None:
        draw(tmp_path / "test/good/a.png")
        for k, mode in enumerate("LP1"):
            draw(tmp_path / f"test/crack/{k}.jpg")
            mask = draw(tmp_path / f"ground_truth/crack/{k}_label.bmp", spot=k)
            Image.open(mask).convert(mode).save(mask)
        (category,) = load_mvtec(tmp_path)
        spots = [np.flatnonzero(sample_mask(s)[0]).tolist() for s in category.samples[:3]]
        assert spots == [[0], [1], [2]]


class TestDeeperFolders:
    def test_images_one_folder_deeper_are_evaluated(self, tmp_path: Path) -> None:
        draw(tmp_path / "test/good/a.png")
        for folder, spot in (("big", 1), ("small", 4)):
            draw(tmp_path / f"test/dent/{folder}/000.png")
            draw(tmp_path / f"ground_truth/dent/{folder}/000_mask.png", spot=spot)
        draw(tmp_path / "test/dent/b.png")
        draw(tmp_path / "ground_truth/dent/b_mask.png", spot=6)
        (category,) = load_mvtec(tmp_path)
        assert summary(category, tmp_path) == [
            ("test/dent/b.png", True, "dent", "ground_truth/dent/b_mask.png"),
            ("test/dent/big/000.png", True, "dent", "ground_truth/dent/big/000_mask.png"),
            ("test/dent/small/000.png", True, "dent", "ground_truth/dent/small/000_mask.png"),
            ("test/good/a.png", False, "good", None),
        ]

    def test_masks_beside_their_images(self, tmp_path: Path) -> None:
        draw(tmp_path / "test/good/a.png")
        draw(tmp_path / "test/bad/10301.png")
        draw(tmp_path / "test/bad/10301_GT.png", spot=2)
        (category,) = load_mvtec(tmp_path)
        assert summary(category, tmp_path)[0][3] == "test/bad/10301_GT.png"

    def test_images_without_a_folder_are_named(self, tmp_path: Path) -> None:
        draw(tmp_path / "test/good/a.png")
        draw(tmp_path / "test/loose.png")
        with pytest.warns(MuscFastWarning, match=r"test/loose\.png: left out, since no folder"):
            load_mvtec(tmp_path)


class TestSetsWithChangesOfTheirOwn:
    def test_mvtec_3d(self, tmp_path: Path) -> None:
        for kind in ("good", "hole"):
            draw(tmp_path / f"bagel/test/{kind}/rgb/000.png")
            draw(tmp_path / f"bagel/test/{kind}/gt/000.png", spot=3)
            draw(tmp_path / f"bagel/test/{kind}/xyz/000.tiff")
        (category,) = load_mvtec(tmp_path)
        assert summary(category, tmp_path) == [
            ("bagel/test/good/rgb/000.png", False, "good", None),
            ("bagel/test/hole/rgb/000.png", True, "hole", "bagel/test/hole/gt/000.png"),
        ]

    def test_mvtec_ad_2_by_lighting(self, tmp_path: Path) -> None:
        root = tmp_path / "can"
        for lighting in ("regular", "overexposed", "shift_1"):
            for part in ("000", "001"):
                draw(root / f"test_public/good/{part}_{lighting}.png")
                draw(root / f"test_public/bad/{part}_{lighting}.png")
                draw(root / f"test_public/ground_truth/bad/{part}_{lighting}_mask.png", spot=1)
        with pytest.warns(MuscFastWarning, match="overexposed, regular, shift_1"):
            found = load_mvtec(tmp_path)
        assert [c.name for c in found] == ["can_overexposed", "can_regular", "can_shift_1"]
        for category in found:
            assert [sample.label for sample in category.samples] == [True, True, False, False]
            assert all(sample.mask for sample in category.samples if sample.label)
        assert load_mvtec(tmp_path, ["can_regular"]) == [found[1]]
        assert load_mvtec(tmp_path, ["can"]) == found
        with pytest.raises(InputError, match=r"unknown category can_dark; known are .*can_regular"):
            load_mvtec(tmp_path, ["can_dark"])

    def test_real_iad_by_camera(self, tmp_path: Path) -> None:
        root = tmp_path / "realiad_256" / "audiojack"
        for camera in ("C1", "C2"):
            draw(root / f"OK/S0001/audiojack_0001_OK_{camera}_20230922141159.jpg")
            image = f"NG/BX/S0009/audiojack_0009_NG_BX_{camera}_20230922141159"
            draw(root / f"{image}.jpg")
            draw(root / f"{image}.png", spot=2)
        with pytest.warns(MuscFastWarning, match=r"several views of each part \(C1, C2\)"):
            first, second = load_mvtec(tmp_path / "realiad_256")
        assert (first.name, second.name) == ("audiojack_C1", "audiojack_C2")
        assert [(s.label, s.defect, bool(s.mask)) for s in first.samples] == [
            (True, "NG", True),
            (False, "OK", False),
        ]
        (tmp_path / "realiad_jsons").mkdir()
        (tmp_path / "realiad_jsons" / "audiojack.json").write_text("{}")
        with pytest.raises(ImageError, match="name the folder of the pictures"):
            load_mvtec(tmp_path / "realiad_jsons")
