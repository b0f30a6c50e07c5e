"""Ingestion: the sets that the lists and folders of a user become, and the pages about them."""
