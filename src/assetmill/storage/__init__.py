"""The store (a folder or a bucket) and the tables kept in it."""
