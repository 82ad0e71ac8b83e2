"""Kernels in CUDA C++, which CuPy compiles for its arrays, and :mod:`.kernels`, which runs them."""
