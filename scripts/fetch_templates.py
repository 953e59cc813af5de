"""Fill an image with templates: TemplateFlow's files when its server answers, and what ships in wheels."""

import argparse
import os
import shutil
import sys
import urllib.request
from pathlib import Path

SPACE = "MNI152NLin2009cAsym"
SERVER = f"https://templateflow.s3.amazonaws.com/tpl-{SPACE}/template_description.json"
PROBE_TIMEOUT_S = 15
# What `pds_bids.template.get_template` asks for, at 2 mm.
FILES = (
    {"suffix": "T1w", "desc": None},
    {"suffix": "mask", "desc": "brain"},
    *({"suffix": "probseg", "label": label, "desc": None} for label in ("GM", "WM", "CSF")),
)


def main() -> int:
    """Fetch and build; fails only when nothing usable is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--templateflow-home", type=Path, required=True, metavar="DIR")
    parser.add_argument("--prebuilt", type=Path, required=True, metavar="DIR")
    parser.add_argument("--offline", action="store_true", help="do not try TemplateFlow's server")
    arguments = parser.parse_args()
    if not arguments.offline:
        fetch(arguments.templateflow_home)
    # Also with TemplateFlow: the atlas, and a template for those who set TEMPLATEFLOW_HOME to something else.
    os.environ["TEMPLATEFLOW_HOME"] = str(arguments.prebuilt / "none")
    from pds_bids.template import get_template

    print(f"fetch_templates: {get_template(arguments.prebuilt).origin}")
    return 0


def _check(path: Path) -> None:
    """Refuse one of the client's placeholders."""
    if not path.stat().st_size:
        raise OSError(f"{path} is empty")


def fetch(home: Path) -> None:
    """Fetch the template's files, all of them or none."""
    try:
        urllib.request.urlopen(SERVER, timeout=PROBE_TIMEOUT_S).close()
        os.environ["TEMPLATEFLOW_HOME"] = str(home)
        from templateflow import api

        for query in FILES:
            found = api.get(SPACE, resolution=2, **query)
            _check(Path(found))
    except Exception as error:  # noqa: BLE001 - whatever it is, the wheels' template is there
        print(f"fetch_templates: TemplateFlow cannot be reached ({error}); the embedded template it is")
        shutil.rmtree(home, ignore_errors=True)
        return
    # The client fills the folder with empty files of every template in the archive.
    for path in home.iterdir():
        if path.name != f"tpl-{SPACE}" and path.is_dir():
            shutil.rmtree(path)
    print(f"fetch_templates: {SPACE} from TemplateFlow in {home}")


if __name__ == "__main__":
    sys.exit(main())
