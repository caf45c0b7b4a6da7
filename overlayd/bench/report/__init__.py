"""Results as a page: charts drawn here as SVG, and every figure in tables."""

from overlayd.bench.report.page import page
from overlayd.bench.report.png import write_pngs

__all__ = ["page", "write_pngs"]
