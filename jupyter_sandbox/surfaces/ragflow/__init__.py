"""RAGFlow's self-managed executor: programs with a function `main`, each run in a sandbox of its own."""
