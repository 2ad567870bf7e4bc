"""Adapters to models: generators, judges and upscalers behind small protocols."""
