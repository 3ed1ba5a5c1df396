"""The dialects in which sandboxes can be asked for. Each only translates to the services; they are strangers."""
