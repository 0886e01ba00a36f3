"""Training of any model on any data set, on attacked inputs if asked."""
