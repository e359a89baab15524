"""The rows of the paper's ablation study: which trainings they are, and the tables of what came out."""
