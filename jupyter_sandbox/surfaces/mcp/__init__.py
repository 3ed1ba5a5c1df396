"""The Model Context Protocol: the contexts of the contexts API as tools of language models, over HTTP and stdio."""
