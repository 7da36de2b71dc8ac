#!/usr/bin/env bash
# OpenVINO 2026.4.1, Linux on x86-64: compiling a model for the CPU gives the calling thread an
# alternate stack for signal handlers (sigaltstack) of some KiB, also on a processor without AMX,
# whose registers it is for. The thread keeps it; the memory is the plugin's. It is replaced without
# regard to a stack that the program has set itself.
#
# Why it matters here: Python's handlers ask for the alternate stack. Where several threads compiled
# and ran models and these were deleted later, a thread was seen with a stack whose memory was gone;
# the next signal that Python handled there, as at Ctrl-C, ended the process without a word, before
# anything could be tidied up. musc_fast puts the thread's own stack back after each call
# (musc_fast/features/engines/signal_stack.py).
#
#   PYTHON=python findings/openvino_signal_stack.sh   # takes an environment that has openvino
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install --quiet "openvino==2026.4.1"
fi
cd "$folder"
"$PYTHON" -W ignore - <<'PY'
import ctypes
from importlib.metadata import version

import numpy as np
import openvino
from openvino import opset13

print("openvino", version("openvino"))
assert version("openvino").startswith("2026.4.1")


class Stack(ctypes.Structure):
    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> Stack:
    found = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found


data = opset13.parameter([1, 8], np.float32)
model = openvino.Model([opset13.relu(data)], [data])
core = openvino.Core()
before = signal_stack()
compiled = core.compile_model(model, "CPU")
after = signal_stack()
print(f"alternate signal stack before: {before.sp}, {before.size} bytes")
print(f"after compile_model: {after.sp:#x}, {after.size} bytes")
assert before.sp is None and before.flags == 2  # SS_DISABLE
assert after.sp is not None and after.size > 0
print("as described")
PY
