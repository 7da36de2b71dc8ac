#!/usr/bin/env bash
# triton 3.6.0's interpreter (TRITON_INTERPRET=1) does not run with NumPy 2.4: a kernel with a
# loop over an argument, `for i in range(0, n, BLOCK)`, ends in "InterpreterError: TypeError('only
# 0-dimensional arrays can be converted to Python scalars')". It keeps scalars as arrays of one
# element, which NumPy turned into numbers up to 2.3. triton asks for no NumPy at all, so a new
# environment may get the pair. The kernels themselves are fine on a GPU.
#
# Why it matters here: kernels are tested on machines without a GPU by the interpreter. There
# tests fail with a message that does not name NumPy, while nothing is wrong with the kernel; NumPy
# 2.3.5, or triton 3.8.0, is the way out.
#
#   PYTHON=python findings/triton_interpreter_numpy.sh   # takes an environment that has torch
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install --quiet "torch==2.14.1"
fi
cat > "$folder/loop.py" <<'PY'
import sys

import numpy
import torch
import triton
import triton.language as tl


@triton.jit
def add_blocks(values, sums, count, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK):
        total += tl.load(values + first + tl.arange(0, BLOCK))
    tl.store(sums + tl.arange(0, BLOCK), total)


values, sums = torch.arange(64.0), torch.zeros(16)
try:
    add_blocks[(1,)](values, sums, 64, 16)
    result = "right" if torch.equal(sums, values.view(4, 16).sum(0)) else "wrong"
except Exception as error:
    assert "0-dimensional" in str(error), error
    result = "fails"
print(f"triton {triton.__version__}, NumPy {numpy.__version__}: {result}")
sys.exit(result != sys.argv[1])
PY
cd "$folder"
for wanted in 3.6.0:2.3.5:right 3.6.0:2.4.0:fails 3.8.0:2.4.0:right; do
  IFS=: read -r triton numpy result <<< "$wanted"
  "$PYTHON" -m pip install --quiet --no-deps --target "$folder/$triton" "triton==$triton" --upgrade
  "$PYTHON" -m pip install --quiet --no-deps --target "$folder/$numpy" "numpy==$numpy" --upgrade
  TRITON_INTERPRET=1 PYTHONPATH="$folder/$triton:$folder/$numpy" "$PYTHON" loop.py "$result"
done
