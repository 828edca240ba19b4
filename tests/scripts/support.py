"""What the script tests share."""

import importlib.machinery
import importlib.util
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
HERE = pathlib.Path(__file__).resolve().parent


def load(name):
    """A script as a module; no compiled copy is left beside it."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(SCRIPTS / name))
    loader.set_data = lambda *_args, **_kwargs: None
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module
