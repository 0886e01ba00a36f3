"""From a plan to files: one short function for each command."""
