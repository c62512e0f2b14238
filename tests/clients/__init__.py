"""The monitor on modules that others wrote; see ``docs/clients.md``.

It has an environment of its own, ``make test-clients``, and is left out of ``make test``.
"""

from tests.clients.torchvision_operators import declare

declare()  # before anything imports torchvision, which torchmetrics does where it finds it
