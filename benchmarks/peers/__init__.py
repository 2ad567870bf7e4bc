"""The same night's work through this pipeline and through what people use instead of it: `python -m peers`."""
