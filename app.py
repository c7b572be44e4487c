"""Serves the page, with a worker beside it where `ECO_EVAL_MODE` is `gpu`. On a Space this file is started as it is."""

from eco_eval.hosting import main

if __name__ == "__main__":
    raise SystemExit(main())
