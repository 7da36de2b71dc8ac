"""Triton kernels, one operator a file; installed as `musc_fast.kernels`.

They import torch and triton alone. Arguments are valid, contiguous where the docstring says so and
on one device: `musc_fast.triton_backend` sees to that.
"""
