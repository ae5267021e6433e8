"""What every test may import by name: the modules of ``tests/fixtures/``. Brokers come from servicebus.testing."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "fixtures"))
