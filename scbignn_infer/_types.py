"""Types that many modules name."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Document = dict[str, Any]
"""An object of JSON."""
