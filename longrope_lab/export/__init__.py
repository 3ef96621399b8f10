"""Handing an extended model over to whatever runs it."""
