"""The results folder: complete or absent, ranks, names, pictures on one scale."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musc_fast.errors import InputError
from musc_fast.report.heatmap import colour_table
from musc_fast.report.results import (
    Run,
    check_target,
    result_names,
    staged,
    write_results,
    write_settings,
)
from musc_fast.threshold import find_threshold


@pytest.fixture
def run(tmp_path: Path) -> Run:
    paths = []
    for k, name in enumerate(("x/a.png", "x/b.png", "c.png")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + 10 * k, 30), (60 * k, 90, 50)).save(path)
        paths.append(path)
    maps = np.random.default_rng(0).random((3, 14, 14)).astype(np.float32)
    scores = np.array([0.5, 0.9, 0.5], dtype=np.float32)
    raw = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    return Run(paths, scores, raw, maps, {"images": 3}, find_threshold(raw, value=0.2))


def write(out: Path, run: Run) -> None:
    with staged(out) as stage:
        write_results(stage, run)
        write_settings(stage, run)


def test_files_and_values(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "deep" / "out"
    write(out, run)
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "image_score", "raw_score", "rank", "flagged"]
    # rank 1 first; a tie of image scores goes by the raw score
    assert [Path(row["path"]).name for row in rows] == ["b.png", "c.png", "a.png"]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [float(row["raw_score"]) for row in rows] == [0.2, 0.3, 0.1]
    assert [row["flagged"] for row in rows] == ["1", "1", "0"]
    for k, name in enumerate(("x/a", "x/b", "c")):
        stored = np.load(out / "maps" / f"{name}.npy")
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(stored, run.anomaly_maps[k])
        heat = Image.open(out / "maps" / f"{name}.png")
        assert heat.size == (40 + 10 * k, 30)
        grey = Image.open(out / "maps_grey" / f"{name}.png")
        assert (grey.mode, grey.size) == ("L", heat.size)
        np.testing.assert_array_equal(colour_table()[np.asarray(grey)], np.asarray(heat))
        assert Image.open(out / "overlays" / f"{name}.png").width > 200
    settings = json.loads((out / "run.json").read_text())
    assert settings["images"] == 3
    assert settings["map_scale"]["low"] == float(run.anomaly_maps.min())
    assert settings["map_scale"]["of"] == "batch"
    assert settings["threshold"]["value"] == 0.2
    assert settings["threshold"]["rule"] == "value"
    assert settings["threshold"]["flagged"] == 2
    with (out / "regions.csv").open(newline="") as file:
        regions = list(csv.DictReader(file))
    assert {row["path"] for row in regions} == set(map(str, run.paths))  # all maps reach 0.2
    assert max(float(row["peak_score"]) for row in regions) == pytest.approx(run.anomaly_maps.max())
    assert "b.png" in (out / "report.html").read_text(encoding="utf-8")


def test_all_pictures_share_one_scale(tmp_path: Path, run: Run) -> None:
    run.anomaly_maps[0] *= 0.01
    write(tmp_path / "out", run)
    dim = np.asarray(Image.open(tmp_path / "out" / "maps" / "x" / "a.png"))
    assert dim.sum(axis=2).max() <= colour_table()[4].sum()


def test_a_scale_for_each_picture(tmp_path: Path, run: Run) -> None:
    run.anomaly_maps[0] *= 0.01
    out = tmp_path / "out"
    with staged(out) as stage:
        write_results(stage, run, map_scale="image")
        write_settings(stage, run, "image")
    for name in ("x/a", "x/b", "c"):
        grey = np.asarray(Image.open(out / "maps_grey" / f"{name}.png"))
        assert grey.max() > 200
    assert json.loads((out / "run.json").read_text())["map_scale"]["of"] == "image"


def test_no_maps(tmp_path: Path, run: Run) -> None:
    with staged(tmp_path / "out") as stage:
        write_results(stage, run, maps=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scores.csv"]


def test_names_stay_distinct() -> None:
    paths = [Path("/d/a.png"), Path("/d/a.jpg"), Path("/d/s/a.png")]
    assert result_names(paths) == ["a.png", "a.jpg", "s/a"]
    paths = [Path("/d/b.png"), Path("/d/b.jpg"), Path("/d/b.png.png"), Path("/d/c")]
    assert result_names(paths) == ["b.png", "b.jpg", "b.png.png", "c"]


def test_a_failed_run_leaves_the_earlier_one(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    write(out, run)
    before = sorted(path.name for path in out.rglob("*"))

    def fail() -> None:
        with staged(out) as stage:
            (stage / "half.txt").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert sorted(path.name for path in out.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    write(out, run)  # and can be run again


def test_a_killed_run_leaves_nothing_half_written(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path; "
        "from musc_fast.report.results import staged\n"
        "with staged(Path(sys.argv[1])) as stage:\n"
        "    (stage / 'half.txt').write_text('x'); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not out.exists()
    assert len(list(tmp_path.glob(".out-partial-*"))) == 1
    write(out, run)
    assert (out / "scores.csv").is_file()
    assert not list(tmp_path.glob(".out-partial-*"))


def test_a_foreign_folder_is_never_replaced(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="holds no earlier run"):
        write(out, run)
    assert (out / "thesis.txt").read_text() == "precious"
    with pytest.raises(InputError, match="is a file"):
        write(out / "thesis.txt", run)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_paths_with_dots_stay_in_the_folder(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "images" / "x")
    dotted = [Path("a.png"), Path("b.png"), Path("../c.png")]
    assert result_names([Path("../../a/1.png"), Path("e/2.png")]) == ["a/1", "images/x/e/2"]
    write(tmp_path / "out", replace(run, paths=dotted))
    write(tmp_path / "plain", run)
    assert sorted(tree(tmp_path / "out")) == sorted(tree(tmp_path / "plain"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out", "plain"]


def test_a_name_that_leaves_the_folder_is_refused(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bad in ("../../a", "x/../../../a", str(tmp_path / "a")):
        names = ["x/a", "x/b", bad]
        monkeypatch.setattr("musc_fast.report.results.result_names", lambda _, n=names: n)
        with pytest.raises(InputError, match="leave its folder"):
            write(tmp_path / "deep" / "out", run)
    assert not list(tmp_path.glob("**/a.npy"))


def test_names_that_start_with_dots() -> None:
    paths = [Path("/d/..png"), Path("/d/...png"), Path("/d/.a.png")]
    assert result_names(paths) == ["..png", "...png", ".a"]


@pytest.mark.parametrize("text", ["{}", "[1]", '{"name": "jogging"}', "not json", b"\xff\xfe"])
def test_any_other_run_json_is_foreign(tmp_path: Path, run: Run, text: str | bytes) -> None:
    out = tmp_path / "out"
    out.mkdir()
    content = text if isinstance(text, bytes) else text.encode()
    (out / "run.json").write_bytes(content)
    with pytest.raises(InputError, match="holds no earlier run"):
        write(out, run)
    assert (out / "run.json").read_bytes() == content


def test_an_earlier_run_with_a_stranger_is_kept(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    write(out, run)
    (out / "thesis.txt").write_text("precious")
    before = tree(out)
    with pytest.raises(InputError, match=r"but also thesis\.txt"):
        write(out, run)
    assert tree(out) == before


def test_inputs_in_the_folder_are_refused(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    write(out, run)
    link = tmp_path / "link.png"
    link.symlink_to(out / "maps" / "c.png")
    for image in (out / "maps" / "c.png", out / ".." / "out" / "maps" / "c.png", link):
        with pytest.raises(InputError, match=r"c\.png lies in|link\.png lies in"):
            check_target(out, [*run.paths, image])
        with pytest.raises(InputError, match="lies in"), staged(out, [image]):
            pass
    check_target(out, run.paths)


def test_a_failed_second_rename_puts_the_earlier_run_back(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write(out, run)
    before = tree(out)
    original = Path.rename
    for error, raised in ((OSError(28, "No space"), InputError), (KeyboardInterrupt(), None)):

        def rename(self: Path, target: Path, error: BaseException = error) -> Path:
            if Path(target) == out and "-partial-" in self.name:
                raise error
            return original(self, target)

        monkeypatch.setattr(Path, "rename", rename)
        with pytest.raises(raised or type(error)):
            write(out, run)
        assert tree(out) == before
        assert hidden(tmp_path) == []


def test_a_run_killed_between_the_renames_is_restored(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    write(out, run)
    before = tree(out)
    code = (
        "import os, signal, sys; from pathlib import Path; "
        "from musc_fast.report.results import staged\n"
        "rename = Path.rename\n"
        "def killed(self, target):\n"
        "    if Path(target) == Path(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rename(self, target)\n"
        "Path.rename = killed\n"
        "with staged(Path(sys.argv[1])): pass"
    )
    child = subprocess.run([sys.executable, "-c", code, str(out)], check=False)
    assert child.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(hidden(tmp_path)) == 2
    with pytest.raises(KeyboardInterrupt), staged(out):
        raise KeyboardInterrupt
    assert tree(out) == before
    assert hidden(tmp_path) == []


def test_leftovers_of_the_same_process_number_are_removed(tmp_path: Path, run: Run) -> None:
    mine, other = f".out-partial-{os.getpid()}-abc", f".out-partial-{os.getppid()}-abc"
    foreign = f".out-partial-2-partial-{os.getpid()}-abc"  # of a folder out-partial-2
    for name in (mine, other, foreign):
        (tmp_path / name).mkdir()
    with staged(tmp_path / "out"), staged(tmp_path / "out") as second:
        assert second.is_dir()
        assert len(hidden(tmp_path)) == 4  # the stages of both are alive
    assert hidden(tmp_path) == sorted([other, foreign])


def test_a_link_is_followed(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "disk" / "out"
    write(out, run)
    link = tmp_path / "link"
    link.symlink_to(out)
    write(link, run)
    assert link.is_symlink()
    assert (out / "scores.csv").is_file()
    assert hidden(tmp_path / "disk") == hidden(tmp_path) == []


def test_a_mount_point_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"/ is a mount point.*such as /results"):
        check_target(Path("/"))
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out)
    with pytest.raises(InputError, match=r"mount point.*such as .*out/results"), staged(out):
        pass
    with staged(out / "results"):
        pass
    assert (out / "results").is_dir()


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    with (
        pytest.raises(InputError, match=r"file/out cannot take the results: "),
        staged(file / "out"),
    ):
        pytest.fail("the work began")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with (
        pytest.raises(InputError, match=r"loop/out cannot take the results: "),
        staged(loop / "out"),
    ):
        pytest.fail("the work began")
    # Root may write anywhere: the error of a read-only file system is raised by hand.
    monkeypatch.setattr(tempfile, "mkdtemp", read_only)
    with (
        pytest.raises(InputError, match=r"out cannot take the results: Read-only file system"),
        staged(tmp_path / "out"),
    ):
        pytest.fail("the work began")


def read_only(**options: object) -> str:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(options["dir"]))
