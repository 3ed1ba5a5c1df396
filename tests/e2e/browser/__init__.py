"""A person at JupyterLab, for tests: `devtools` drives chromium, `lab` knows JupyterLab's page."""
