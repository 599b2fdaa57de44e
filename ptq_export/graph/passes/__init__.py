"""The passes that rewrite an exported graph, one per file; `pipeline.graphs` says which follow which."""
