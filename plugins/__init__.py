"""The built-in plugins: warps, pairings, data sets, backbones and key points."""
