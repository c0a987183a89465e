"""Tools that know nothing of models or problems: files, HTML, provenance, statistics."""
