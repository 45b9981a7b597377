"""What every widget is: one output for all front ends, controls with their names, a picture."""

import base64
import html
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import ipywidgets
from IPython import get_ipython
from IPython.display import display

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Interactive:
    """A widget, its picture and its text in one output, of which a front end takes the best.

    JupyterLab takes the widget, GitHub and a saved notebook the picture, a terminal the text.

    Args:
        view: The ipywidgets view.
        describe: Returns the present state in words.
        draw: Draws the present state and returns its axes.
    """

    def __init__(
        self, view: ipywidgets.Widget, describe: Callable[[], str], draw: "Callable[[], Axes]"
    ) -> None:
        self.view, self.describe, self.draw = view, describe, draw

    def __repr__(self) -> str:
        return self.describe()

    def bundle(self) -> dict[str, object]:
        """Return the present state by MIME type: widget, PNG picture, text."""
        # ipywidgets 7.7 and 8 build this entry in different ways; the format is the same.
        view = {"version_major": 2, "version_minor": 0, "model_id": self.view.model_id}
        return {
            "application/vnd.jupyter.widget-view+json": view,
            "image/png": png(self.draw()),
            "text/plain": self.describe(),
        }

    def _ipython_display_(self) -> None:
        has_kernel = hasattr(get_ipython(), "kernel")
        display(self.bundle() if has_kernel else {"text/plain": self.describe()}, raw=True)


class Explorer(Interactive):
    """Named controls above a picture and its words, made anew when a control moves.

    Args:
        controls: The controls by the name that stands before them.
        describe: Returns the present state in words.
        draw: Draws the present state and returns its axes.
    """

    def __init__(
        self,
        controls: Mapping[str, ipywidgets.Widget],
        describe: Callable[[], str],
        draw: "Callable[[], Axes]",
    ) -> None:
        self.controls = dict(controls)
        self.picture = ipywidgets.HTML()
        rows = name_controls(self.controls, width_px=190)
        super().__init__(ipywidgets.VBox([*rows, self.picture]), describe, draw)
        for control in self.controls.values():
            control.observe(lambda change: self.refresh(), names="value")
        self.refresh()

    def refresh(self) -> None:
        """Draw the present state and put it into words again."""
        words = html.escape(self.describe())
        source = f"data:image/png;base64,{png(self.draw())}"
        style = "max-width:100%;background:white"
        self.picture.value = (
            f"<img src='{source}' alt='{words}' style='{style}'>"
            f"<p style='max-width:760px;line-height:1.5'>{words}</p>"
        )


def name_controls(
    controls: Mapping[str, ipywidgets.Widget], width_px: int
) -> list[ipywidgets.HBox]:
    """Return a row for each control with its name before it; names get ``width_px`` pixels."""
    return [
        ipywidgets.HBox([ipywidgets.Label(name, layout={"width": f"{width_px}px"}), control])
        for name, control in controls.items()
    ]


def png(ax: "Axes") -> str:
    """Return a figure as base64 PNG and close it, or the notebook would show it a second time."""
    from matplotlib.pyplot import close

    ax.figure.savefig(buffer := io.BytesIO(), format="png", bbox_inches="tight")
    close(ax.figure)
    return base64.b64encode(buffer.getvalue()).decode()
