"""Notebooks as the command line handles them: files, execution, runs, records."""
