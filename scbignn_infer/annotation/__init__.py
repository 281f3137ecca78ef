"""What is said of a cell."""
