"""The same gradients in several hands: each module is a program that reads tasks and prints how its attack went."""
