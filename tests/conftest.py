"""For all tests: hypothesis measures no time here, since two cores do many things at once."""

from hypothesis import settings

settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
