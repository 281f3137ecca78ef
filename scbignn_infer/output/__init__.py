"""How an annotation is written."""
