"""What the front runs first.

The modules of a launch are some 30 small files. Finding them one by one costs more than running
them, so `make build` and `make install` also write them into one file (`packaging/bundle.py`) that
is read at once. It is used only while it belongs to this Python and to the sources beside it,
exactly as with the byte code of a single module; without it everything works, 1 ms slower.
"""
import gc
import marshal
import posix
import sys

BUNDLE = "__pycache__/start." + str(sys.implementation.cache_tag) + ".bundle"


def main(fd: int, launcher: bytes) -> int:
    """See `dunnage.__main__.main`."""
    gc.disable()  # a launch becomes another program long before anything is worth collecting
    load(__file__.rpartition("/")[0])
    from dunnage.__main__ import main

    return main(fd, launcher)


def load(package: str) -> None:
    """Import all modules of the bundle in the package's directory, if it is current."""
    try:
        file = posix.open(f"{package}/{BUNDLE}", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return
    magic = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER  # importlib.util would cost an import
    try:
        data = posix.read(file, posix.fstat(file).st_size)
        if data[:len(magic)] != magic:
            return
        modules = marshal.loads(data[len(magic):])
        for _, path, mtime, size, _ in modules:
            found = posix.stat(f"{package}/{path}")
            if found[8] != mtime or found.st_size != size:
                return
    except Exception:  # a source is gone; or the bundle is damaged, of which marshal says this or that
        return
    finally:
        posix.close(file)
    for name, path, _, _, code in modules:
        module = type(sys)(name)
        module.__file__ = f"{package}/{path}"
        parent, _, child = name.rpartition(".")
        if path.endswith("/__init__.py"):
            module.__path__ = [module.__file__.rpartition("/")[0]]
            module.__package__ = name
        else:
            module.__package__ = parent
        sys.modules[name] = module
        exec(code, module.__dict__)
        setattr(sys.modules[parent], child, module)
