"""UniBench: the benchmark's clips, as their files."""
