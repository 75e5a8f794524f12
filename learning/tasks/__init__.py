"""The tasks the demos run, each named in a site file as `tertium.learning.tasks.FILE:CLASS`."""
