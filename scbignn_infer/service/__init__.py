"""The service over HTTP.

A client names a model that is served, never a path. Bodies go to a file as they come, in a folder
that is gone when the request has been answered. A child process with limits reads them and labels
their cells; the process that talks HTTP reads none.
"""

from __future__ import annotations

from scbignn_infer.service.app import make_app
from scbignn_infer.service.desk import Limits
from scbignn_infer.service.models import Models
from scbignn_infer.service.worker import Worker

__all__ = ["Limits", "Models", "Worker", "make_app"]
