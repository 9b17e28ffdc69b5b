"""What a selector learns from: rollouts, labels, collections."""
