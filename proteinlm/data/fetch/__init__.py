"""Downloads of public data and weights, checked before they are used."""
