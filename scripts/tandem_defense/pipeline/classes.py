"""Objects of the classes that a job is told. Needs no PyTorch."""

import importlib
import importlib.util
import sys
from pathlib import Path

# An entry as the rules pass it on: ``class``, "module:Class" or "file.py:Class"; ``settings``; and,
# of what is trained, ``training``. Labels and whatever else a reader sees do not come this far.
Entry = dict


def load_class(target: str) -> type:
    """The class that "module:Class", or "file.py:Class" with the path of a file, names.

    A file may import what lies beside it.
    """
    module, name = target.rsplit(":", 1)
    if not module.endswith(".py"):
        return getattr(importlib.import_module(module), name)
    key = f"tandem_defense_plugin:{Path(module).resolve()}"
    if key not in sys.modules:
        folder = str(Path(module).resolve().parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(key, module)
        sys.modules[key] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[key])
        except BaseException:
            del sys.modules[key]
            raise
    return getattr(sys.modules[key], name)


def build(entry: Entry, seed: int = 0) -> object:
    """An object of an entry's class with its settings; with the run's seed if it takes one."""
    cls = load_class(entry["class"])
    takes_seed = "seed" in getattr(cls, "__dataclass_fields__", {})
    return cls(**entry["settings"], **({"seed": seed} if takes_seed else {}))


def identity(entry: Entry) -> dict:
    """What stored results of an entry belong to, as JSON would give it back."""
    return {"class": entry["class"], "settings": entry["settings"]}
