"""What the two command lines share: one table of flags, reading them, files, logs, signals."""
