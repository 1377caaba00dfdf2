"""The page, tables and pictures of an evaluation."""
