"""Networks and classical methods that draw modalities from video, weights from a local folder."""
