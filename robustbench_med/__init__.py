"""robustbench-med: robust accuracy of multimodal medical classifiers that can be trusted."""
