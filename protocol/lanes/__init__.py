"""The two lanes: control and bulk, over ZeroMQ or in memory, behind one interface."""
