"""Speed and strength, as ratios within one run."""
