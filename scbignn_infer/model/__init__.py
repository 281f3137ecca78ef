"""Models on disk: found, read, validated."""
