"""The network of sections 3.1 to 3.3: encoder, reasoning module, decoder."""
