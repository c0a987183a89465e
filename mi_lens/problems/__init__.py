"""Problems: a question, and what counts as right."""
