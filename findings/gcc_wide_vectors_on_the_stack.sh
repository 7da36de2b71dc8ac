#!/usr/bin/env bash
# GCC 12.2.0 (-O3 -mavx2 -mfma), beside the clang of ziglang 0.13.0: a vector of GCC's extension
# (vector_size) that is wider than the processor's registers is not simply two registers. Two sums
# of 16 floats each, carried round a loop, are 64 bytes each; AVX2 has 16 registers of 32 bytes, so
# four would hold them. GCC writes the sums to the stack and reads them back in each turn, in part
# through general registers, where sums of 8 floats, the same arithmetic, stay in registers. Seen on
# a Zen 3: 0.505 ns a float beside 0.100 ns. Clang keeps both widths in registers.
#
# Why it matters here: the kernels are written once with vectors of 16 floats, which AVX-512 holds
# in one register. Loops that carry sums must use 8 lanes for AVX2 (csrc/cpu/inner/rows.hpp).
#
#   findings/gcc_wide_vectors_on_the_stack.sh   # needs g++ and objdump for x86-64
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet "ziglang==0.13.0"
cat >sum.cpp <<'CPP'
typedef float Vector __attribute__((vector_size(4 * LANES)));
float squares(const float* x, const float* y, long count) {
  Vector sums[2] = {};
  for (long at = 0; at + 2 * LANES <= count; at += 2 * LANES) {
    for (int k = 0; k < 2; ++k) {
      Vector a, b;
      __builtin_memcpy(&a, x + at + k * LANES, sizeof a);
      __builtin_memcpy(&b, y + at + k * LANES, sizeof b);
      sums[k] += (a - b) * (a - b);
    }
  }
  const Vector both = sums[0] + sums[1];
  float sum = 0;
  for (int k = 0; k < LANES; ++k) sum += both[k];
  return sum;
}
CPP
g++ --version | head -1
venv/bin/python -m ziglang c++ --version | head -1
# Instructions with an address on the stack, of the whole function.
on_stack() { objdump -d --no-show-raw-insn "$1" | grep -cE "\((%rsp|%rbp)[,)]" || true; }
for lanes in 8 16; do
  g++ -O3 -mavx2 -mfma -DLANES=$lanes -c sum.cpp -o gcc$lanes.o
  venv/bin/python -m ziglang c++ -target x86_64-linux-gnu -mcpu=haswell -O3 -fomit-frame-pointer \
    -DLANES=$lanes -c sum.cpp -o clang$lanes.o
  objdump -d clang$lanes.o | grep -q "%ymm"  # the vectors are there
  echo "$lanes floats a vector: $(on_stack gcc$lanes.o) addresses on the stack by GCC," \
    "$(on_stack clang$lanes.o) by clang"
done
test "$(on_stack gcc8.o)" = 0
test "$(on_stack gcc16.o)" -gt 20
test "$(on_stack clang16.o)" = 0
echo "as described"
