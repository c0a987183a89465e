"""The commands, one file each, and run folders that survive a killed process."""
