"""Operations with a plain PyTorch reference and, where one exists, a GPU kernel behind the same checked wrapper."""
