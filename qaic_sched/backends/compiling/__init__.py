"""Compiling once, for any kind of device: the recipe, the folder of the result, the file format."""
