"""The wires of the programs that tunnelkit succeeds, as transports that keep to what those programs do.

What is behind them is a session like any other, inside the process: gateway, agent and registry do not know that the
peer is not one of ours.
"""
