"""Prints its name, arguments and imports, then ends as its first argument says."""

import importlib.util
import sys
from pathlib import Path

import helper_beside  # in the folder of this script, as under `python see_itself.py`
import qaic

print(__name__, Path(__file__).name, Path(sys.argv[0]).name, sys.argv[1:])
print(helper_beside.ANSWER, Path(sys.path[0]).name)
print(importlib.util.find_spec("qaic").name, importlib.util.find_spec("qaic.no_such_part"))
how = sys.argv[1]
if how == "raise":
    raise RuntimeError("as the script wants")
if how == "refuse":
    qaic.Session("no_such_model.onnx", backend="qnn")
if how == "interrupt":
    raise KeyboardInterrupt
sys.exit(int(how) if how.isdigit() else how)
