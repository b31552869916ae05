"""Where libkrun and libkrunfw are: as configured, where distributions put them, or in the wheel smolmachines.

Found by absolute path, since all flavours name themselves alike (SONAME libkrun.so.1). Loads nothing.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from krunpy.core.errors import HostError
from krunpy.vmm.libkrun_spec import Flavour, Libraries

DIRECTORIES = (
    "/usr/local/lib64",
    "/usr/local/lib/x86_64-linux-gnu",
    "/usr/local/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib",
)
WHEEL = "smol"  # the package of the wheel smolmachines
_SUFFIX = {Flavour.PLAIN: "", Flavour.SEV: "-sev", Flavour.TDX: "-tdx"}
_LIBKRUN = ("libkrun{}.so.1", "libkrun{}.so")
_LIBKRUNFW = ("libkrunfw{}.so.5", "libkrunfw{}.so.4")
_NEXT = (
    "install your distribution's libkrun, or `pip install krunpy[libkrun]`, or set {0} to the library's path "
    "(KRUNPY_{1})"
)
_NEXT_TEE = "install your distribution's libkrun{2}, or set {0} to the library's path (KRUNPY_{1})"


def find_libraries(libkrun: str, libkrunfw: str, flavour: Flavour = Flavour.PLAIN) -> Libraries:
    """Return the libraries of a flavour.

    libkrun, libkrunfw: absolute paths as configured, empty to look in the usual places.

    Raises HostError if libkrun is nowhere, or a configured path is no file.
    """
    places = _list_places(flavour)
    found = _find("libkrun", libkrun, _LIBKRUN, flavour, places)
    if found is None:
        names = " or ".join(name.format(_SUFFIX[flavour]) for name in _LIBKRUN)
        raise HostError(
            "cannot find libkrun",
            why=f"no {names} in {', '.join(places)}",
            next=_say_next("libkrun", flavour),
        )
    return Libraries(
        libkrun=found, libkrunfw=_find("libkrunfw", libkrunfw, _LIBKRUNFW, flavour, places), flavour=flavour
    )


def find_libkrunfw(configured: str, flavour: Flavour = Flavour.PLAIN) -> str | None:
    """Return the path of a libkrunfw, None if there is none. Raises HostError if a configured path is no file."""
    return _find("libkrunfw", configured, _LIBKRUNFW, flavour, _list_places(flavour))


def require_libkrunfw(libraries: Libraries) -> str:
    """Return the path of libkrunfw. Raises HostError if there is none."""
    if libraries.libkrunfw is None:
        names = " or ".join(name.format(_SUFFIX[libraries.flavour]) for name in _LIBKRUNFW)
        raise HostError(
            "cannot find libkrunfw, which has the guest's kernel",
            why=f"no {names} in {', '.join(_list_places(libraries.flavour))}",
            next=_say_next("libkrunfw", libraries.flavour),
        )
    return libraries.libkrunfw


def _say_next(setting: str, flavour: Flavour) -> str:
    """Return how to get a library: the wheel has plain ones only."""
    text = _NEXT if flavour is Flavour.PLAIN else _NEXT_TEE
    return text.format(setting, setting.upper(), _SUFFIX[flavour])


def _list_places(flavour: Flavour) -> tuple[str, ...]:
    """Return the directories to look in, the first first. The wheel has plain libraries only."""
    spec = find_spec(WHEEL) if flavour is Flavour.PLAIN else None
    if spec is None or not spec.submodule_search_locations:
        return DIRECTORIES
    return (*DIRECTORIES, *spec.submodule_search_locations)


def _find(
    what: str, configured: str, names: tuple[str, ...], flavour: Flavour, places: tuple[str, ...]
) -> str | None:
    if configured:
        if not os.path.isabs(configured) or not os.path.isfile(configured):
            raise HostError(
                f"cannot find {what}", why=f"{configured} is set for it, wanted the absolute path of a file"
            )
        return os.path.realpath(configured)
    for place in places:
        for name in names:
            path = os.path.join(place, name.format(_SUFFIX[flavour]))
            if os.path.isfile(path):
                return os.path.realpath(path)
    return None
