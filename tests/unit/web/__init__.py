"""The web process, with a real broker and a real database, and a worker that the tests play."""
