# Cross-compiles for 64-bit ARM Linux by zig, which brings its own glibc and C++ library.
# AARCH64_CXX is a program that calls `zig c++ -target aarch64-linux-gnu.2.28` (see aarch64.py).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER "$ENV{AARCH64_CXX}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
