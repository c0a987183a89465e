"""The problem as the random variable: bits that states hold of the answer."""
