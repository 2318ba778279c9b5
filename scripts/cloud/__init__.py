"""Oracle's API: bake there, publish, deploy, replace, look, take away."""
