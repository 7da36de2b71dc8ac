"""The fault run (`make faults`): breaks what can break, and counts promise by promise.

Kills, a full disk (a small tmpfs, where mounting is allowed), damaged files, threads and signals.
The counts of the last run are in docs/reliability.md; `--times K` multiplies them.
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])]

import numpy as np
import torch
from mutations import KINDS, damage
from PIL import Image
from safetensors.torch import save_file
from tiny import TINY, product, tiny_weights

from musc_fast import MuscFastError, ReferenceBank, score_batch
from musc_fast.datasets.read_images import read_image
from musc_fast.features.weights.find import read_state_file
from musc_fast.features.weights.onnx import read_onnx
from musc_fast.scoring import checkpoint

CHANCE = random.Random(0)
Z = torch.randn(24, 49, 32, generator=torch.Generator().manual_seed(0))


class Count:
    """What was tried of one promise, and what failed."""

    def __init__(self, promise: str) -> None:
        self.promise, self.tried = promise, 0
        self.failures: list[str] = []

    def note(self, holds: bool, what: str) -> None:
        self.tried += 1
        if not holds:
            self.failures.append(what)


def python(code: str, *arguments: object, **how: Any) -> subprocess.Popen[str]:
    paths = os.pathsep.join(sys.path[:2])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **how}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


KILLED = """
import sys
from pathlib import Path
import killed_run
print("ready", flush=True)
killed_run.score([Path(sys.argv[1])], Path(sys.argv[2]), Path(sys.argv[3]))
"""


def kills(folder: Path, times: int) -> Count:
    """A run with a checkpoint is killed at random times and goes on."""
    count = Count("a killed run goes on and gives the same bits")
    tokens = torch.randn(40, 101, 64, generator=torch.Generator().manual_seed(1))
    np.save(folder / "z.npy", tokens.numpy())
    wanted = score_batch(tokens, prefix_tokens=1).patch_scores.numpy()
    done, number = 0, 0
    while number < 2 * times:
        number += 1
        out, place = folder / f"out{number}.npy", folder / f"checkpoint{number}"
        for attempt in range(5):  # the last one is left alone
            child = python(KILLED, folder / "z.npy", place, out)
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(CHANCE.random() * 2.0)
            killed = child.poll() is None and attempt < 4
            if killed:
                child.kill()
                done += 1
            error = child.communicate()[1]
            count.note(killed or child.returncode == 0, f"run after {done} kills: {error[-200:]}")
            if out.exists():
                break
        same = out.exists() and np.array_equal(np.load(out), wanted)
        count.note(same, f"scores after {done} kills")
        leftovers = [each for each in place.iterdir() if each.name.startswith(".")]
        young = [each for each in leftovers if time.time() - each.stat().st_mtime < 60]
        count.note(len(leftovers) == len(young), f"old leftovers in {place}: {leftovers}")
    return count


FULL = """
import sys, tempfile
from pathlib import Path
import numpy as np, torch
small, other = sys.argv[1:3]
tempfile.tempdir = small
from musc_fast import MuscFastError, ReferenceBank, ops, score_batch
from musc_fast.files import replacing
z = torch.randn(24, 400, 64, generator=torch.Generator().manual_seed(0))
class Tokens(torch.utils.data.Dataset):
    def __len__(self): return 24
    def __getitem__(self, index): return z[index]
np.save(other + "/z.npy", z.numpy())
def cli(*words):
    from typer.testing import CliRunner
    from musc_fast.cli.app import app
    done = CliRunner().invoke(app, [*words, "--backbone", "timm:test_vit", "--weights",
        other + "/tiny.safetensors", "--size", "64"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0
try:
    CODE
    print("done")
except MuscFastError as error:
    print("named" if small in str(error) and chr(10) not in str(error) else "unnamed", error)
"""
FULL_CASES = {
    "tokens in a file": "score_batch(other + '/z.npy')",
    "a dataset": "score_batch(Tokens())",
    "rounded rows": "ops.msm(torch.randn(60, 400, 512), memory_limit=52 << 20)",
    "a checkpoint": "score_batch(z, checkpoint=small + '/c', degrees=(1,) * 9)",
    "a bank": "b = ReferenceBank(24); b.add(z); b.save(small + '/b.safetensors')",
    "a results folder": "cli('score', other + '/photos', '--out', small + '/out')",
    "a results folder without maps": (
        "cli('score', other + '/photos', '--out', small + '/out', '--no-maps')"
    ),
    "a watch": "cli('watch', other + '/photos', '--bank', small + '/w.safetensors', '--once',"
    " '--interval', '0.1', '--start', '3')",
}


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path | None]:
    """A tmpfs of `size`; None where mounting is not allowed."""
    place = folder / f"disk-{size}"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=False)


def full_disks(folder: Path, times: int) -> Count:
    count = Count("a full disk ends in one line that names the folder, never in a signal")
    tiny_weights(folder)
    (folder / "photos").mkdir()
    for k in range(5):
        Image.fromarray(product(k)).save(folder / "photos" / f"{k}.png")
    for size in ("16k", "256k", "1m"):
        for name, code in FULL_CASES.items():
            with small_disk(folder, size) as disk:
                if disk is None:
                    return count
                child = python(FULL.replace("CODE", code), disk, folder)
                out, error = child.communicate()
                fits = out.startswith(("named", "done"))  # a small file may fit on 1 MiB
                count.note(
                    child.returncode == 0 and fits, f"{name} on {size}: {out} {error[-300:]}"
                )
                left = [each.name for each in disk.iterdir() if "partial" in each.name]
                count.note(not left, f"{name} on {size} left {left}")
            disk.rmdir()
    return count


def damaged(folder: Path, times: int) -> Iterator[Count]:
    """Every kind of file that is read back, damaged in every way."""
    yield _damaged_checkpoints(folder, times)
    count = Count("a damaged file ends in no error but ours")
    whole: dict[Path, bytes] = {}
    readers: dict[str, Callable[[Path], object]] = {}
    bank = ReferenceBank(8)
    bank.add(Z[:4])
    bank.save(folder / "bank.safetensors")
    np.save(folder / "tokens.npy", Z.numpy())
    save_file({"tokens": Z}, folder / "layer.safetensors")
    torch.save({"weight": Z}, folder / "weights.pt")
    for suffix in ("png", "jpg", "tif", "bmp", "webp"):
        Image.fromarray(product(1)).save(folder / f"photo.{suffix}")
        readers[f"photo.{suffix}"] = read_image
    (folder / "graph.onnx").write_bytes(_graph())
    readers |= {
        "bank.safetensors": ReferenceBank.load,
        "tokens.npy": lambda path: score_batch(path, degrees=(1,)),
        "layer.safetensors": lambda path: score_batch(path, degrees=(1,)),
        "weights.pt": read_state_file,
        "graph.onnx": lambda path: read_onnx(path.read_bytes(), path.name),
    }
    for name in readers:
        whole[folder / name] = (folder / name).read_bytes()
    for name, read in readers.items():
        for kind in KINDS:
            for _ in range(3 * times):
                path = folder / name
                damage(path, kind, CHANCE, whole[folder / "photo.png"])
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        read(path)
                    count.note(True, "")
                except MuscFastError:
                    count.note(True, "")
                except Exception as error:
                    count.note(False, f"{name}, {kind}: {type(error).__name__}: {error}")
                path.write_bytes(whole[path])
    yield count


def _graph() -> bytes:
    from onnx import helper, numpy_helper

    stored = [
        numpy_helper.from_array(np.ones((4, 3), np.float32), "onnx::MatMul_1"),
        numpy_helper.from_array(np.ones(3, np.float32), "layer.bias"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["y"], name="/layer/MatMul"),
        helper.make_node("Add", ["y", "layer.bias"], ["z"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [], stored)
    return bytes(helper.make_model(graph).SerializeToString())


def _damaged_checkpoints(folder: Path, times: int) -> Count:
    count = Count("a damaged checkpoint changes no score")
    checkpoint._PART = 6
    place = folder / "damaged"
    wanted = score_batch(Z, checkpoint=place, degrees=(1, 3)).patch_scores
    whole = {path: path.read_bytes() for path in sorted(place.iterdir())}
    for path, kind in ((path, kind) for path in whole for kind in KINDS):
        for _ in range(3 * times):
            other = CHANCE.choice([data for file, data in whole.items() if file != path])
            damage(path, kind, CHANCE, other)
            try:
                found = score_batch(Z, checkpoint=place, degrees=(1, 3)).patch_scores
                count.note(torch.equal(found, wanted), f"wrong scores: {path.name}, {kind}")
            except MuscFastError as error:
                count.note(path.name == "run.json", f"{path.name}, {kind}: {error}")
                path.write_bytes(whole[path])
            except Exception as error:
                count.note(False, f"{path.name}, {kind}: {type(error).__name__}: {error}")
                path.write_bytes(whole[path])
    return count


def threads(folder: Path, times: int) -> Count:
    count = Count("a bank that several threads add to has every image once")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for _ in range(10 * times):
        bank = ReferenceBank(64, degrees=(1,))
        bank.add(Z[:1, :9], ["first"])

        def work(first: int, bank: ReferenceBank = bank) -> None:
            for k in range(first, 24, 4):
                bank.score_and_add(Z[k : k + 1, :9], [str(k)])

        workers = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        found = sorted(bank.ids) == sorted(["first", *map(str, range(24))])
        count.note(found and bank.added == 25, f"{len(bank)} images, {bank.added} added")
    sys.setswitchinterval(before)
    return count


COMMAND = """
import sys
from musc_fast.cli.app import main
sys.argv[0] = "musc-fast"
main()
"""


def signals(folder: Path, times: int) -> Count:
    count = Count("SIGINT and SIGTERM leave no scratch file and no half result")
    place = folder / "signals"
    (place / "tmp").mkdir(parents=True)
    photos = place / "photos"
    photos.mkdir()
    for k in range(60):
        Image.fromarray(product(k)).save(photos / f"{k}.png")
    weights = tiny_weights(place)
    words = ["score", photos, "--out", place / "out", "--backbone", TINY, "--weights", weights]
    for _ in range(4 * times):
        for number in (signal.SIGTERM, signal.SIGINT):
            child = python(COMMAND, *words, "--offline", TMPDIR=str(place / "tmp"))
            time.sleep(6.0 + 6.0 * CHANCE.random())
            child.send_signal(number)
            child.communicate()
            if child.returncode == 0:
                continue  # the run was complete before
            left = [path for path in place.iterdir() if path.name.startswith(".out")]
            left += list((place / "tmp").glob("musc_fast-*"))
            count.note(not left and child.returncode in (128 + number, -number), str(left))
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1)
    times = parser.parse_args().times
    torch.set_num_threads(1)
    counts: list[Count] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        for part in (kills, full_disks, threads, signals, damaged):
            folder = Path(name, part.__name__)
            folder.mkdir()
            start = time.monotonic()
            found = part(folder, times)
            counts += [found] if isinstance(found, Count) else found
            print(f"{part.__name__}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    print("| promise | tried | failed |\n|---|---:|---:|")
    for each in counts:
        failed = str(len(each.failures)) if each.tried else "not allowed to mount here"
        print(f"| {each.promise} | {each.tried} | {failed} |")
    print(json.dumps([failure for each in counts for failure in each.failures], indent=1))
    return int(any(each.failures for each in counts))


if __name__ == "__main__":
    sys.exit(main())
