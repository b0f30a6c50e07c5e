"""Which labelled images are probably labelled wrongly."""
