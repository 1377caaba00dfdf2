"""What a run needs on which devices, and the best mesh."""
