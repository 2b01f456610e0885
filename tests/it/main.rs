//! Tests of the whole product: real processes, real files, real kills.

mod tidy;
