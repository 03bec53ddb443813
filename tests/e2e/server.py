"""A real WebUI, started with and without the extension, and spoken to over HTTP."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = ("scripts", "deepcache_ext", "install.py", "metadata.ini", "style.css")
"""What an installed extension needs of this repository."""
HELPER = (Path(__file__).parent / "helper/scripts", ROOT / "tests/webui/deepcache_contract.py")
EXTENSIONS = {"e2e-deepcache": [ROOT / part for part in PARTS], "e2e-helper": HELPER}
USER, PASSWORD = "e2e", "secret"
VARIABLES = {
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
START_SECONDS = 180
SETTINGS = {
    "samples_save": False,
    "grid_save": False,
    "show_progress_type": "Approx cheap",
    "batch_cond_uncond": True,
    "pad_cond_uncond": False,
    "token_merging_ratio": 0.0,
    "hypertile_enable_unet": False,
    "skip_early_cond": 0.0,
    "s_min_uncond": 0.0,
    "s_min_uncond_all": False,
    "emphasis": "No norm",
    "sd_unet": "Automatic",
}
"""The host's settings at the start; after a job it restores only those that its file names.

Its usual emphasis divides by the mean of the text embedding, which an untrained text encoder may well have at 0.
"""


def parts_of(checkout):
    """Return what of an extension's checkout is copied."""
    return [part for part in Path(checkout).iterdir() if part.name != ".git"]


class Server:
    """A running WebUI."""

    def __init__(self, port, log):
        self.address = f"http://127.0.0.1:{port}"
        self.log = log

    def request(self, path, body=None, *, auth=True, method=None, timeout=600):
        """Return the status and the decoded answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310
        if auth:
            request.add_header("Authorization", "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:  # noqa: S310
                return reply.status, json.loads(reply.read() or "null")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def get(self, path):
        status, answer = self.request(path)
        assert status == 200, (path, status, answer)
        return answer

    def post(self, path, body=None):
        status, answer = self.request(path, body, method="POST")
        assert status == 200, (path, status, answer)
        return answer

    def wait_for_start(self, starts, process=None):
        """Wait until the WebUI has started for so many times; a request before it is ready would break its start."""
        deadline = time.monotonic() + START_SECONDS
        while self.log.read_text().count("Startup time:") < starts:
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                raise RuntimeError(f"the WebUI did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.2)

    def wait_for_port(self):
        """Wait until the WebUI answers: with --nowebui it says that it has started before it listens."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.get("/sdapi/v1/memory")
            except urllib.error.URLError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)


@contextmanager
def serving(webui, folder, *flags, extensions=EXTENSIONS):
    """Run a WebUI of the kind `webui` with copies of `extensions` and no others on a free port.

    They, the settings and all that it writes are in `folder`; of its own folder only the models are used.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "config.json"
    settings.write_text(json.dumps(SETTINGS | dict(webui.settings)))
    command = [*webui.command(port, folder), "--api-auth", f"{USER}:{PASSWORD}", *flags]
    log = folder / "webui.log"
    process = None
    try:
        (folder / "extensions").mkdir()
        for name, parts in extensions.items():
            for part in parts:
                copy = shutil.copytree if part.is_dir() else _copy_file
                copy(part, folder / "extensions" / name / part.name)
        with log.open("w") as output:
            process = subprocess.Popen(
                command, cwd=webui.folder, stdout=output, stderr=output, env=os.environ | VARIABLES
            )
        server = Server(port, log)
        server.wait_for_start(1, process)
        server.wait_for_port()
        yield server
    finally:
        if process is not None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _copy_file(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
