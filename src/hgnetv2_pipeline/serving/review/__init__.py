"""``hgnetv2 review``: a local page on which a person decides of images, written at once."""
