"""Makes the starter pack again from nothing: one file per model, resumable, with logged curves."""
