"""Tests import `service` and `tests.fakes` from the repository's root, wherever pytest was started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
