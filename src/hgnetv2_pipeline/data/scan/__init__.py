"""Where images are: folders, archives and ImageNet's layout go in, tables come out."""
