"""The host's folders."""

import tempfile

data_path = tempfile.mkdtemp()
