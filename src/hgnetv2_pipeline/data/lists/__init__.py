"""Text lists of images: their syntax, the files they name, and what is wrong with them."""
