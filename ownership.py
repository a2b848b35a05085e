"""Files and folders that root makes belong to the owner of the folder that they are in."""

import os
from pathlib import Path


def give_to_owner_of_folder(path: Path, descriptor: int | None = None) -> None:
    """Give a new file or folder, if root has made it, to the account that owns its folder.

    So a service of that account can open it.

    Args:
        path: of the file or folder.
        descriptor: of the file, if it is open: that account could have put another one, or a
            link, in its place.

    Raises:
        OSError: the owner cannot be changed.
    """
    if os.geteuid() == 0:
        folder = path.parent.stat()
        if descriptor is None:
            os.chown(path, folder.st_uid, folder.st_gid, follow_symlinks=False)
        else:
            os.fchown(descriptor, folder.st_uid, folder.st_gid)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder, and those above it, if there is none.

    Raises:
        OSError: it cannot be made.
    """
    if not path.exists():
        make_folder(path.parent)
        path.mkdir(mode, exist_ok=True)
        give_to_owner_of_folder(path)
