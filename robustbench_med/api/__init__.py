"""The small public API: what plug-ins import, and what the harness promises them."""
