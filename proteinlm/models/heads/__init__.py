"""What reads the states of a backbone: heads of the language model, of residues, of proteins, of pairs."""
