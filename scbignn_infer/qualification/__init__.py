"""Whether this installation labels as the released one does: golden cases and a record of them."""
