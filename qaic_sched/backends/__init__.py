"""What runs inferences: the seam (`base`), a folder for each kind of device, and the choice.

Imports go one way: `base` and `threads`, then `compiling`, then `cpu`, `sim` and `aic`, which know
nothing of each other, then `choose`.
"""
