"""One file a command; folders that survive a kill."""
