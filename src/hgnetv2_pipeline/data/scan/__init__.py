"""Where images lie: folders, archives and ImageNet's layout go in, tables come out."""
