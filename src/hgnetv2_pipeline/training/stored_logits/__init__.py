"""A teacher's answers kept on disk: made once, replayed in training, and their price."""
