"""The decode loop: logits -> propose -> trigger -> candidate forward -> score and select ->
commit.
"""
