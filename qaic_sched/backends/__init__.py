"""Backends run inferences: the interface (`base`), a folder per kind of device, and the choice.

Imports go one way: `base` and `threads`, then `compiling`, then `cpu`, `sim` and `aic`, which do
not import each other, then `choose`.
"""
