"""Integer networks in torch: the schemes, the operators and the layers that the exported graph is a trace of."""
