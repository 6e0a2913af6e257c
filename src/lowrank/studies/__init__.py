"""The studies: one file each, which enters a `Study` record."""
