"""The shelf of defenses. Each file is a plug-in; pyproject.toml names it in one line."""
