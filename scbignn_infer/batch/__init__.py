"""Many files: samples, their manifest, parts, workers."""
