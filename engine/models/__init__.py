"""One file per component of the checkpoint; submodule names follow the released tensor names."""
