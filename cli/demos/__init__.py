"""`tertium demo`: what each demo is (`recipes`), its folder, its processes, and how a person sees them.

A demo is a convenience over the public commands and nothing more: it writes the files that people would write, starts
`tertium ... run` once a party, and reads the progress those processes print. It takes no part in the protocol.
"""
