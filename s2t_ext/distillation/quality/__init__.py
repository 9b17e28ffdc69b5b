"""What a selector is worth on held-out groups, without decoding anything."""
