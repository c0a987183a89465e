"""What knows no model and no problem: files, HTML, provenance, statistics."""
