"""Training and distillation: losses, objectives, distiller, loop, recipes, checkpoints."""
