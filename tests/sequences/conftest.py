"""The modules beside this file are imported by their names: they are a program too (`sequence_run.py`)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
