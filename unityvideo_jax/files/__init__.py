"""Reading and writing files: whole or not at all, checked, and named in every error."""
