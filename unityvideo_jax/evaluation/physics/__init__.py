"""The physics benchmark: pairs of a possible and an impossible clip, and predictions of paths."""
