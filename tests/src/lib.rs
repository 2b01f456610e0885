//! Holds no code: the tests of the whole are in `it/`.
