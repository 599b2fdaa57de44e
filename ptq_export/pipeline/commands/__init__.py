"""What one does with a finished run: one verb of the command line per file."""
