from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musc_fast.datasets.layouts import (
    Category,
    Sample,
    load_dataset,
    load_folder,
    load_mvtec,
    load_visa,
    sample_mask,
    verify,
)
from musc_fast.errors import ImageError, InputError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def draw(path: Path, size: tuple[int, int] = (6, 8), spot: int | None = None) -> Path:
    """A grey picture of (height, width); with a `spot` a mask whose pixel (0, spot) is white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size, 0 if spot is not None else 100, np.uint8)
    if spot is not None:
        pixels[0, spot] = 255
    Image.fromarray(pixels).save(path)
    return path


def summary(category: Category, root: Path) -> list[tuple[str, bool | None, str, str | None]]:
    return [
        (
            sample.image.relative_to(root).as_posix(),
            sample.label,
            sample.defect,
            sample.mask and sample.mask.relative_to(root).as_posix(),
        )
        for sample in category.samples
    ]


def mvtec_tree(root: Path) -> Path:
    for name in ("000", "001", "002"):
        draw(root / f"bottle/train/good/{name}.png")
    draw(root / "bottle/test/good/000.png")
    draw(root / "bottle/test/broken/2.png")
    draw(root / "bottle/test/broken/10.png")
    draw(root / "bottle/ground_truth/broken/10_mask.png", spot=1)
    draw(root / "bottle/ground_truth/broken/2_mask.png", spot=2)
    draw(root / "screw/test/good/000.png")
    (root / "license.txt").write_text("text")
    (root / "bottle/test/broken/.DS_Store").write_text("hidden")
    (root / "empty").mkdir()
    return root


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
        with pytest.raises(ImageError, match="its mask is missing"):
            load_mvtec(tmp_path)
        (category,) = load_mvtec(tmp_path, masks=False)
        assert summary(category, tmp_path) == [("test/bad/a.png", True, "bad", None)]
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
        message = r"2_mask\.png: mask is 9 x 6, but its image .*test/broken/2\.png is 8 x 6"
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


def visa_tree(root: Path) -> Path:
    rows = ["object,split,label,image,mask"]
    for kind in ("candle", "pcb1"):
        base = f"{kind}/Data"
        rows.append(f"{kind},train,normal,{base}/Images/Normal/0000.JPG,")
        for stem in ("0002", "0001"):
            draw(root / f"{base}/Images/Normal/{stem}.JPG")
            rows.append(f"{kind},test,normal,{base}/Images/Normal/{stem}.JPG,")
        draw(root / f"{base}/Images/Anomaly/000.JPG")
        mask = draw(root / f"{base}/Masks/Anomaly/000.png", spot=5)
        Image.fromarray(np.asarray(Image.open(mask)) // 255 * 3).save(mask)  # classes, not white
        rows.append(
            f"{kind},test,anomaly,{base}/Images/Anomaly/000.JPG,{base}/Masks/Anomaly/000.png"
        )
    rows.append("fryum,test,normal,fryum/Data/Images/Normal/0000.JPG,")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.parametrize("column", ["object", "image", "mask"])
@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../../x", ".", "..", "a//b", "a\\b", "a\0b", "a\nb", "./a"]
)
def test_names_that_lead_out_of_the_dataset_are_refused(
    tmp_path: Path, column: str, name: str
) -> None:
    root = visa_tree(tmp_path / "visa")
    table = root / "split_csv/1cls.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[3][column] = name
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ImageError, match=rf"1cls.csv, line \d+: {column} .* is no name within"):
        load_visa(root)


class TestVisA:
    def test_the_table_decides(self, tmp_path: Path) -> None:
        candle, pcb = load_visa(visa_tree(tmp_path))
        assert (candle.name, pcb.name) == ("candle", "pcb1")
        images = "candle/Data/Images"
        assert summary(candle, tmp_path) == [
            (f"{images}/Normal/0002.JPG", False, "normal", None),
            (f"{images}/Normal/0001.JPG", False, "normal", None),
            (f"{images}/Anomaly/000.JPG", True, "anomaly", "candle/Data/Masks/Anomaly/000.png"),
        ]
        verify([candle, pcb])
        assert np.argwhere(sample_mask(candle.samples[2])).tolist() == [[0, 5]]

    def test_chosen_and_absent_categories(self, tmp_path: Path) -> None:
        root = visa_tree(tmp_path)
        assert [c.name for c in load_dataset("visa", root, ["pcb1"])] == ["pcb1"]
        with pytest.raises(ImageError, match=r"fryum/.*0000\.JPG: no such file, though .*1cls"):
            load_visa(root, ["fryum"])
        with pytest.raises(InputError, match="unknown category pcb9; known are candle, pcb1"):
            load_visa(root, ["pcb9"])

    def test_missing_and_mismatched_masks_name_both_files(self, tmp_path: Path) -> None:
        root = visa_tree(tmp_path)
        masks = root / "candle/Data/Masks/Anomaly"
        (masks / "000.png").rename(masks / "001.png")
        with pytest.raises(
            ImageError, match=r"Images/Anomaly/000\.JPG: its mask .*Masks/Anomaly/000\.png is miss"
        ):
            load_visa(root)
        assert load_visa(root, masks=False)[0].samples[2].mask is None
        table = root / "split_csv/1cls.csv"
        table.write_text(table.read_text().replace("candle/Data/Masks/Anomaly/000", "x/001"))
        with pytest.raises(ImageError, match=r"x/001\.png: mask does not bear the .*000\.JPG"):
            load_visa(root)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("object,split,label,image\na,test,normal,b\n", "lacks the column mask"),
            ("object,split,label,image,mask\na,test\n", "line 2: too few columns"),
            ("object,split,label,image,mask\na,test,bad,b,c\n", "line 2: label 'bad'"),
            ("object,split,label,image,mask\na,train,normal,b,\n", "lists no image of the split"),
            ("object,split,label,image,mask\na,test,normal,b,\n", "none of the folders a is here"),
        ],
    )
    def test_bad_tables(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "split_csv").mkdir()
        (tmp_path / "split_csv/1cls.csv").write_text(text)
        with pytest.raises(ImageError, match=message):
            load_visa(tmp_path)

    def test_no_table(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"1cls\.csv: cannot be read .*VisA root"):
            load_visa(tmp_path)


def test_folder_has_no_labels(tmp_path: Path) -> None:
    mvtec_tree(tmp_path)
    (category,) = load_folder(tmp_path / "bottle" / "test")
    assert category.name == "test"
    assert summary(category, tmp_path) == [
        ("bottle/test/broken/2.png", None, "", None),
        ("bottle/test/broken/10.png", None, "", None),
        ("bottle/test/good/000.png", None, "", None),
    ]
    assert load_dataset("folder", tmp_path / "bottle" / "test") == [category]
    with pytest.raises(InputError, match="no mask is known"):
        sample_mask(category.samples[0])
    with pytest.raises(ImageError, match="no images in this folder"):
        load_folder(tmp_path / "empty")


def test_sample_mask_resizes_and_is_empty_for_a_normal_image(tmp_path: Path) -> None:
    image, mask = draw(tmp_path / "a.png", (4, 8)), draw(tmp_path / "b.png", (4, 8), spot=0)
    assert sample_mask(Sample(image, True, "x", mask), (8, 16)).sum() == 4
    normal = Sample(image, False, "good", None)
    assert sample_mask(normal).shape == (4, 8)
    assert sample_mask(normal, (3, 5)).shape == (3, 5)
    assert not sample_mask(normal).any()


def test_unknown_layout_lists_the_known() -> None:
    with pytest.raises(InputError, match="'coco'; known are mvtec, btad, visa, folder"):
        load_dataset("coco", ".")
