"""Who builds the ``nn.Module``: registries, import paths, files."""
