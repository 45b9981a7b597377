"""What every widget shows where there are no widgets: a picture, and without pictures its words."""

import base64
import struct

from matplotlib.pyplot import get_fignums

from course_utils.show.widgets import Interactive

# A notebook is saved with its pictures in a palette, a third of this.
MOST_BYTES = 100_000


def check_bundle(widget: Interactive, most_bytes: int = MOST_BYTES) -> None:
    """Check that one output holds the widget, its picture and its words, and leaves no figure."""
    bundle = widget.bundle()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.view.model_id
    assert bundle["text/plain"] == repr(widget)
    png = base64.b64decode(bundle["image/png"])
    width, height = struct.unpack(">II", png[16:24])
    assert png.startswith(b"\x89PNG")
    assert 400 < width < 1200
    assert 100 < height < 700
    assert len(png) < most_bytes
    assert get_fignums() == []
