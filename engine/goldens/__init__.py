"""Runs reference cases: folders of inputs, weights and expected outputs of the released code.

`python -m engine.goldens DIR` runs every case folder that it knows in DIR.
"""
