"""One self-contained HTML page of what runs found: no server, no network, no model."""

from mi_lens.report.findings import findings
from mi_lens.report.page import write_report

__all__ = ["findings", "write_report"]
