"""What notebooks show: figures, tables, source code and explorers, in one palette."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "plotting": [
            "new_axes",
            "plot_bars",
            "plot_heat",
            "plot_lines",
            "plot_memory",
            "plot_methods",
            "plot_probabilities",
        ],
        "source": ["Source", "show_source"],
        "tables": [
            "Shown",
            "coloured_tokens",
            "interval_table",
            "series_table",
            "side_by_side",
            "table",
            "with_interval",
        ],
    },
)
