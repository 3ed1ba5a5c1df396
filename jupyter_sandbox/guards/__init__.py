"""Pure judges of foreign values: each returns the judged value or raises InvalidRequestError."""
