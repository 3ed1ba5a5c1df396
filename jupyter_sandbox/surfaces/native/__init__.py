"""Our own REST, under `/api/sandboxes`, in Jupyter's manner."""
