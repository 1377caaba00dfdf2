"""OpenUni: real clips with modalities, as their files."""
