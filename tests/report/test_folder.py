"""The target folder: complete or absent, and nothing but an earlier run is ever replaced."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from musc_fast.errors import InputError
from musc_fast.report.folder import check_fillable, check_target, check_writable, staged
from musc_fast.report.results import write_results, write_settings
from musc_fast.report.scored_batch import ScoredBatch
from musc_fast.report.tables import check_json_target, write_json_lines


def write(out: Path, run: ScoredBatch) -> None:
    with staged(out) as stage:
        write_results(stage, run)
        write_settings(stage, run)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_failed_run_leaves_the_earlier_one(tmp_path: Path, run: ScoredBatch) -> None:
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


def test_a_killed_run_leaves_nothing_half_written(tmp_path: Path, run: ScoredBatch) -> None:
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path; "
        "from musc_fast.report.folder import staged\n"
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


def test_a_foreign_folder_is_never_replaced(tmp_path: Path, run: ScoredBatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="holds no earlier run"):
        write(out, run)
    assert (out / "thesis.txt").read_text() == "precious"
    with pytest.raises(InputError, match="is a file"):
        write(out / "thesis.txt", run)


@pytest.mark.parametrize("text", ["{}", "[1]", '{"name": "jogging"}', "not json", b"\xff\xfe"])
def test_any_other_run_json_is_foreign(tmp_path: Path, run: ScoredBatch, text: str | bytes) -> None:
    out = tmp_path / "out"
    out.mkdir()
    content = text if isinstance(text, bytes) else text.encode()
    (out / "run.json").write_bytes(content)
    with pytest.raises(InputError, match="holds no earlier run"):
        write(out, run)
    assert (out / "run.json").read_bytes() == content


def test_an_earlier_run_with_a_stranger_is_kept(tmp_path: Path, run: ScoredBatch) -> None:
    out = tmp_path / "out"
    write(out, run)
    (out / "thesis.txt").write_text("precious")
    before = tree(out)
    with pytest.raises(InputError, match=r"but also thesis\.txt"):
        write(out, run)
    assert tree(out) == before


def test_inputs_in_the_folder_are_refused(tmp_path: Path, run: ScoredBatch) -> None:
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
    tmp_path: Path, run: ScoredBatch, monkeypatch: pytest.MonkeyPatch
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


def test_a_run_killed_between_the_renames_is_restored(tmp_path: Path, run: ScoredBatch) -> None:
    out = tmp_path / "out"
    write(out, run)
    before = tree(out)
    code = (
        "import os, signal, sys; from pathlib import Path; "
        "from musc_fast.report.folder import staged\n"
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


def test_leftovers_of_the_same_process_number_are_removed(tmp_path: Path, run: ScoredBatch) -> None:
    mine, other = f".out-partial-{os.getpid()}-abc", f".out-partial-{os.getppid()}-abc"
    foreign = f".out-partial-2-partial-{os.getpid()}-abc"  # of a folder out-partial-2
    for name in (mine, other, foreign):
        (tmp_path / name).mkdir()
    with staged(tmp_path / "out"), staged(tmp_path / "out") as second:
        assert second.is_dir()
        assert len(hidden(tmp_path)) == 4  # the stages of both are alive
    assert hidden(tmp_path) == sorted([other, foreign])


def test_a_living_process_is_found_by_psutil(
    tmp_path: Path, run: ScoredBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows os.kill(pid, 0) interrupts or ends the process that it asks about."""
    asked = []
    exists = psutil.pid_exists
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: asked.append(pid) or exists(pid))
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(wait, stdin=subprocess.PIPE, text=True) as child:
        theirs = tmp_path / f".out-partial-{child.pid}-abc"
        gone = tmp_path / f".out-partial-{10**12}-abc"
        theirs.mkdir()
        gone.mkdir()
        write(tmp_path / "out", run)
        assert theirs.is_dir()
        assert not gone.exists()
        assert asked == [child.pid]
        child.communicate("")
    write(tmp_path / "out", run)
    assert hidden(tmp_path) == []


def test_a_link_is_followed(tmp_path: Path, run: ScoredBatch) -> None:
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
    monkeypatch.setattr(Path, "mkdir", read_only)
    with (
        pytest.raises(InputError, match=r"out cannot take the results: Read-only file system"),
        staged(tmp_path / "out"),
    ):
        pytest.fail("the work began")


def read_only(folder: Path, **options: object) -> None:
    if not folder.exists():
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="this system has no /proc")
def test_a_target_is_tried_not_asked_for_its_rights(tmp_path: Path) -> None:
    """Nothing can be made in /proc, also by one who has all rights."""
    place = Path("/proc/musc_fast/deep")
    with pytest.raises(InputError, match="cannot take the results: /proc is no folder"):
        check_writable(place)
    with pytest.raises(InputError, match="--cache: /proc is no folder that can be written to"):
        check_fillable(place, "--cache")
    with pytest.raises(InputError, match=r"--json: .* cannot be written"):
        check_json_target(place, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--out: .*file is no folder"):
        check_fillable(tmp_path / "file", "--out")
    check_writable(tmp_path / "a" / "b")
    check_fillable(tmp_path / "a" / "b", "--out")
    check_json_target(tmp_path / "lines.jsonl", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # nothing is left


def test_a_reader_that_has_gone_is_told_and_nothing_more_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(InputError, match="the reader of standard output has gone"):
            write_json_lines(None, [{"path": "a.png"}])
        stdout.flush()  # as at the end of Python: no second error
