"""From a feature map back to images: the learned inverse of one layer, and what it makes possible."""
