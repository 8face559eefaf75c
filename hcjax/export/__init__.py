"""Export: Models as files."""
