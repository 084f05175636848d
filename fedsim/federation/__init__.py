"""Federation: clients, server, messages, and the engines that run them."""
