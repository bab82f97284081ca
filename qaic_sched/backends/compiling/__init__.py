"""Compiling once for any kind of device: the recipe, the folder with its result, and the files."""
