"""What people look at: a self-contained HTML page of runs, figures, a coloured trace."""
