"""What knows nothing of the field: checks, files, identities of runs, processes, progress."""
