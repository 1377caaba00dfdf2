"""The needs of a run on given devices, and the best mesh."""
