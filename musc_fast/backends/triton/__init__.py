"""The Triton backend: the certified search in fused kernels for CUDA GPUs from sm_80 on."""
