"""What numba compiles. Nothing here is imported before it is run, and without numba nothing here is missed."""
