"""What a client may put into its model or its training: one folder a hook, one file a method."""
