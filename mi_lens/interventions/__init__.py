"""What changes a generation: one small file each, behind one protocol (`protocol`)."""
