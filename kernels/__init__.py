"""Accelerator kernels, one folder an operation; imports no medjax."""
