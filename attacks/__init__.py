"""The shelf of attacks. Each file is a plug-in; pyproject.toml names it in one line."""
