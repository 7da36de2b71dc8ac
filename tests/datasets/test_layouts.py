from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import draw, mvtec_tree, summary

from musc_fast.datasets.layouts import (
    Sample,
    load_dataset,
    load_folder,
    load_visa,
    sample_mask,
    verify,
)
from musc_fast.errors import ImageError, InputError, MuscFastWarning


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

    def test_names_of_normal_and_defective_images_may_coincide(self, tmp_path: Path) -> None:
        """The table decides, and a mask is that of the defective image alone."""
        root = visa_tree(tmp_path)
        draw(root / "candle/Data/Images/Normal/000.JPG")
        with (root / "split_csv/1cls.csv").open("a") as table:
            table.write("candle,test,normal,candle/Data/Images/Normal/000.JPG,\n")
        samples = load_visa(root, ["candle"])[0].samples
        found = [(s.image.parent.name, s.label, s.mask and s.mask.name) for s in samples]
        assert found[2:] == [("Anomaly", True, "000.png"), ("Normal", False, None)]
        assert not sample_mask(samples[3]).any()
        with pytest.warns(MuscFastWarning, match=r"Masks/Anomaly/000\.png: left out as labels"):
            (category,) = load_folder(root / "candle")
        base = root / "candle/Data/Images"
        images = {sample.image.relative_to(base).as_posix() for sample in category.samples}
        assert images == {"Anomaly/000.JPG", "Normal/000.JPG", "Normal/0001.JPG", "Normal/0002.JPG"}

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
