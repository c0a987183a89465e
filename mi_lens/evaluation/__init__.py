"""Is it right, and what changed?"""
