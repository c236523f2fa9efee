"""Where things are."""

import os
from pathlib import Path

import covct

ROOT = Path(covct.__file__).parent.parent
PYTHONPATH = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"  # of a process of its own that imports what tests import
SHARED = Path(os.environ.get("COVCT_DATA", ROOT.parent / "shared" / "data"))
