# Cross-compiles for 64-bit ARM Linux; make_dist.py names the compiler in AARCH64_CXX. Python's
# headers are those of this machine: on 64-bit Linux they tell the same of both.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER "$ENV{AARCH64_CXX}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
# CMake would not run this machine's Python when it cross-compiles; through `env` it does.
set(CMAKE_CROSSCOMPILING_EMULATOR /usr/bin/env)
