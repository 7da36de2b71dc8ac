"""Triton kernels, one operator a file; installed as `musc_fast.kernels`.

The kernels import torch and triton alone, and do not check arguments: tensors must be valid, on one
device, and contiguous where a docstring says so. `musc_fast.backends.triton` passes such tensors.
"""
