"""Thousands of malformed inputs and a hundred kills, and what the commands make of them."""
