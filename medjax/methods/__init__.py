"""Training methods, one `Step` factory a file."""
