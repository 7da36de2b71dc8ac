"""The C++ backend: exact nearest patches on any CPU by a certified low-precision search."""
