"""What `kind: evaluate` stands on: the rows of single images, tables, figures."""
