"""What every room uses and no room owns: configs, files, progress, versions, seeds, errors."""
