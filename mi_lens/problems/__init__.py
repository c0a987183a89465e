"""Problems: questions, and what counts as a correct answer to them."""
