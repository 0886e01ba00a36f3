"""From a config to the outcome of every sample: objects, batches, attack and scoring."""
