"""How good a model is: scores of images, their means by sub-dataset, the paper's numbers (sections 4.1, 4.3)."""
