"""From an unlabelled pool to a training list: scores, duplicates, selection, audit."""
