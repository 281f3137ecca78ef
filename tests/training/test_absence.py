"""Without PyTorch this folder is skipped with a reason, and failed where all has to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
sys.modules["torch"] = None
import pytest
sys.exit(pytest.main(["-p", "no:cacheprovider", sys.argv[1]]))
"""


@pytest.mark.parametrize(("required", "outcome"), [("0", "1 skipped"), ("1", "1 error")])
def test_the_folder_without_torch(required, outcome):
    file = Path(__file__).with_name("test_objective.py")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file)],
        env={**os.environ, "SCBIGNN_REQUIRE_DATA": required},
        cwd=file.parents[2],
        capture_output=True,
        text=True,
    )
    assert outcome in done.stdout
    assert "the extra 'training' is not installed (torch missing)" in done.stdout
    assert (done.returncode in (0, 5)) == (required == "0")
