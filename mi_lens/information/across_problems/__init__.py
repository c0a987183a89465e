"""Information across problems: how many bits states hold about the answer of a random problem."""
