"""Teachers: frozen networks and linear classifiers on their features; images go in, answers out."""
