"""The report of an annotation: one HTML file that needs nothing else."""

from __future__ import annotations

from scbignn_infer.report.page import write_report

__all__ = ["write_report"]
