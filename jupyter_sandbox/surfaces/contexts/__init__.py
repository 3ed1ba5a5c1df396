"""The contexts API, under `/api/v1/contexts`: named places to run code, each in a sandbox of its own."""
