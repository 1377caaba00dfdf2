"""The paper's ablations at small size: arms, their plan, scores, statistics and page."""
