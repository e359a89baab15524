"""What a search found: a document with figures, tables, and a summary for the terminal."""

from rsrnet_platform.search.report.document import summary, write
from rsrnet_platform.search.report.outcome import Comparison, comparison
from rsrnet_platform.search.report.table import write_table

__all__ = ["Comparison", "comparison", "summary", "write", "write_table"]
