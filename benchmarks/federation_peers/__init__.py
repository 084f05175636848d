"""The same federation in other hands: each module is a program that prints its round times as JSON.

A program takes the number of clients and of rounds, and a file with the digits shared out among the clients.
"""
