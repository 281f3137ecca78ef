"""What a file holds, in which state, and which of its genes are the model's."""
