"""Timings and figures that the documentation quotes; run with `make bench`."""
