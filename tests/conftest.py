"""What holds for all tests? No deadline for the property-based ones: a busy machine is no failure. Nobody's broker."""

import os

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

for name in [name for name in os.environ if name.startswith("CELERY_")]:
    del os.environ[name]  # Celery would heed it more than an app's own settings
