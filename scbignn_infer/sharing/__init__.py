"""Models on their way to other people: packed, signed, fetched, installed, frozen."""
