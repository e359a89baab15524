"""What `kind: predict` stands on: inputs, the stages from an image to its mask, and an output that goes on."""
