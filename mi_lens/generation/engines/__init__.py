"""Other engines that generate traces; each has its own file."""
