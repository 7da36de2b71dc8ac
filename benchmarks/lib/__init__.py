"""Helpers of the programs in benchmarks/.

Importing this package gives the top-level folder `kernels/` its name `musc_fast.kernels` where
musc_fast is not installed (`checkout`), so a program imports it before `musc_fast.kernels`.
"""

from __future__ import annotations

from . import checkout

__all__ = ["checkout"]
