"""Serves the page. On a Space this file is started as it is."""

from eco_eval.settings import Settings
from eco_eval.ui.site import launch

if __name__ == "__main__":
    launch(Settings.from_env())
