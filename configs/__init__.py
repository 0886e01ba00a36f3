"""YAML of models, training recipes and threat models; installs as ``robustbench_med.configs``."""
