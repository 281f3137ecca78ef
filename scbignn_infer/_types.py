"""Types that many modules name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Document = dict[str, Any]
"""An object of JSON."""
Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the cells done and all cells."""
