"""From requests to traces."""
