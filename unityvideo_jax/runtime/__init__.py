"""The process and its machine: signals, memory, seeds, failed children."""
