"""Components: what a client adds to its model or training, one folder a hook, one file a method."""
