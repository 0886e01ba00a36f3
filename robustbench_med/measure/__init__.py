"""Outcomes to numbers: accuracies with intervals, metrics, comparisons. Knows no file."""
