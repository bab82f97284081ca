"""The main job and the benchmarks, run from a checkout; not part of the installed package."""
