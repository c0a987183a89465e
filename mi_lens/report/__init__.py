"""For eyes: one self-contained HTML page of what runs found, figures, a coloured trace."""
