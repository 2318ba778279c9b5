"""`python -m tests.service.fake_service`: the whole process as shipped, but with a fake model whose gate is a pipe.

Each byte on standard input lets one sampled token through; end of file lets all. The model answers "You said: ...".
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from service.__main__ import main
from service.process import leave
from tests.fakes import FakeModel

if __name__ == "__main__":
    leave(main(sys.argv[1:], os.environ, lambda settings: lambda: FakeModel(gate=lambda: os.read(0, 1))))
